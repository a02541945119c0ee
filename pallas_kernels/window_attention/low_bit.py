"""Window attention in few bits: scores of whole numbers of 8 bits, reads of floats of 8 bits. For inference alone.

Keys and values lose the mean of their frame's tokens, m and n, before they are rounded: of a token j in the frame f,
and of a query that is divided by the root of D first ::

  q_i = s_i q8_i + ...     k_j = m_f + r_j k8_j + ...     v_j = n_f + t_f v8_j + ...
  score_ij = q_i m_f + s_i r_j (q8_i k8_j)                  the first product in float32, the second exact in int32
  w_ij = t_f exp(score_ij), over the row's largest          softmax in float32
  out_i = (sum_j w8_ij v8_j + sum_f P_if n_f) / sum_f P_if  w8 rounded to float8, P_if: sum of w_ij / t_f of a frame

with scales s and r of a row (its largest number is 127) and t of a frame (448). So a common offset of the keys, which
is far larger in videos than what tells tokens apart, takes no digits away, nor does one of the values.

SageAttention takes the mean over all keys instead, and drops q m, which is then the same for all keys. Here q m is put
back, so any mean is right, and that of a frame belongs to the frame alone. What a key is rounded to therefore depends
on nothing that a stream has yet to see or has forgotten: chunk by chunk it reads what the whole clip does. Only float32
sums are taken in another order, whose last digit now and then tips the rounding of a weight.

How far out_i may be off, beside what float32 adds. A score is off by e at most, so a weight p_ij of the exact softmax
grows or shrinks by exp(2 e) at most. Float8 (e4m3) is off by 2^-4 of a number, or by 2^-10 where it is below 2^-6. Then
for each of the D numbers, with the largest over the N tokens j that i sees ::

  e = max_j (s_i |k_j - m_f|_1 + r_j (|q_i|_1 + D s_i / 2)) / 2
  |error| <= (exp(2 e) - 1) sum_j p_ij |v_j - out_i|
             + exp(2 e) (0.13 sum_j p_ij |v_j - n_f| + 2^-17 N max_j p_ij R_f)

where R_f is the largest number, sign aside, that a value of the frame and head differs from n_f by.

Source: SageAttention (arXiv:2410.02367), SageAttention2 (arXiv:2411.10958).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int8

from pallas_kernels.dispatch import Unsupported
from pallas_kernels.window_attention import xla
from pallas_kernels.window_attention.sharded import join_own
from pallas_kernels.window_attention.visibility import HIDDEN_SCORE, MaskRule, Span

FLOAT8 = jnp.float8_e4m3fn
MOST_INT, MOST_FLOAT = 127, 448  # the largest numbers of either kind
WEIGHT = 256  # what the largest weight of a row becomes: a power of two, which rounds nothing
SMALLEST = 1e-20  # scale of a frame whose values are all alike


class Frames(NamedTuple):
  """Keys and values, rounded frame by frame; see the module's equations.

  Attributes:
    k8, v8: [B G L H D], int8 and float8.
    k_scale: r.
    log_v_scale: of t.
    k_mean, v_mean: m and n.
  """

  k8: Array
  k_scale: Float[Array, "B G L H"]
  k_mean: Float[Array, "B G H D"]
  v8: Array
  log_v_scale: Float[Array, "B G H"]
  v_mean: Float[Array, "B G H D"]


def window_attention(
  q: Float[Array, "B F L H D"],
  k: Float[Array, "B G L H D"],
  v: Float[Array, "B G L H D"],
  rule: MaskRule,
  span: Span,
  first: int | None = None,
) -> Float[Array, "B F L H D"]:
  """Same contract as `api.window_attention`, within the module's bound; at linear cost.

  Raises:
    Unsupported: its gradient is asked for.
  """
  q, k, v = _without_gradient(q, k, v)
  return xla.in_windows(q, k, v, rule, span, first, pack, lambda *x: _attend(*x)[0].astype(q.dtype))


def action_attention(
  q: Float[Array, "B A H D"],
  k: Float[Array, "B A H D"],
  v: Float[Array, "B A H D"],
  video_k: Float[Array, "B N L H D"],
  video_v: Float[Array, "B N L H D"],
  span: Span,
) -> Float[Array, "B A H D"]:
  """Same contract as `api.action_attention`; actions read each other in full precision.

  Raises:
    Unsupported: its gradient is asked for.
  """
  return join_own(q, k, v, *read_video(q, video_k, video_v, span))


def read_video(
  q: Float[Array, "B A H D"],
  video_k: Float[Array, "B N L H D"],
  video_v: Float[Array, "B N L H D"],
  span: Span,
) -> tuple[Float[Array, "B A H D"], Float[Array, "B A H"]]:
  """Same contract as `flash.read_video`, within the module's bound.

  Raises:
    Unsupported: its gradient is asked for.
  """
  q, video_k, video_v = _without_gradient(q, video_k, video_v)
  seen = jnp.repeat(span.holds(jnp.arange(video_k.shape[1])), video_k.shape[2], axis=1)
  frames = jax.tree.map(lambda x: x[:, None], pack(video_k, video_v))
  out, lse = _attend(q[:, None, None], frames, seen[:, None, None])
  return out[:, 0, 0].astype(q.dtype), rearrange(lse, "b 1 h q -> b q h")


def pack(k: Float[Array, "B G L H D"], v: Float[Array, "B G L H D"]) -> Frames:
  """What is attended to. Each frame of it depends on that frame alone."""
  k, v = (x.astype(jnp.float32) for x in (k, v))
  k_mean, v_mean = (jnp.mean(x, axis=2) for x in (k, v))
  k8, k_scale = _to_int8(k - k_mean[:, :, None])
  v = v - v_mean[:, :, None]
  v_scale = jnp.maximum(jnp.max(jnp.abs(v), axis=(2, 4)) / MOST_FLOAT, SMALLEST)
  v8 = (v / v_scale[:, :, None, :, None]).astype(FLOAT8)
  return Frames(k8, k_scale, k_mean, v8, jnp.log(v_scale), v_mean)


def _to_int8(x: Float[Array, "*B D"]) -> tuple[Int8[Array, "*B D"], Float[Array, "*B"]]:
  """Each row rounded to whole numbers, and its scale."""
  scale = jnp.max(jnp.abs(x), axis=-1) / MOST_INT
  scale = jnp.where(scale > 0, scale, 1.0)
  return jnp.round(x / scale[..., None]).astype(jnp.int8), scale


def _attend(
  q: Float[Array, "B P N L H D"], frames: Any, mask: Bool[Array, "#B #P #Q K"]
) -> tuple[Float[Array, "B P N L H D"], Float[Array, "B P H Q"]]:
  """What queries read of `Frames` [B P M ...], and log-sum-exp of their scores; finite for one that sees nothing."""
  shape, tokens = q.shape, frames.k8.shape[3]
  q = rearrange(q, "b p n l h d -> b p (n l) h d").astype(jnp.float32) * shape[-1] ** -0.5
  q8, q_scale = _to_int8(q)
  k8, v8 = (rearrange(x, "b p m l h d -> b p (m l) h d") for x in (frames.k8, frames.v8))
  rows = lambda x: jnp.moveaxis(x.reshape(*x.shape[:2], -1, x.shape[-1]), -1, 2)  # noqa: E731  [B P H rows]
  log_v_scale = rows(frames.log_v_scale)[..., None, :]
  by_frame = _exact("bpqhd,bpmhd->bphqm", q, frames.k_mean) + log_v_scale
  scores = jnp.einsum("bpqhd,bpkhd->bphqk", q8, k8, preferred_element_type=jnp.int32).astype(jnp.float32)
  scores *= rows(q_scale)[..., None] * rows(frames.k_scale)[..., None, :]
  scores = jnp.where(mask[:, :, None], scores + jnp.repeat(by_frame, tokens, axis=-1), HIDDEN_SCORE)
  peak = jnp.max(scores, axis=-1, keepdims=True)
  weights = jnp.exp(scores - peak)
  mass = weights.reshape(*by_frame.shape, tokens).sum(-1) * jnp.exp(-log_v_scale)
  total = mass.sum(-1)
  w8 = (weights * WEIGHT).astype(FLOAT8)
  read = jnp.einsum("bphqk,bpkhd->bphqd", w8, v8, preferred_element_type=jnp.float32) / WEIGHT
  read = (read + _exact("bphqm,bpmhd->bphqd", mass, frames.v_mean)) / total[..., None]
  return rearrange(read, "b p h q d -> b p q h d").reshape(shape), peak[..., 0] + jnp.log(total)


def _exact(equation: str, x: Array, y: Array) -> Float[Array, "..."]:
  return jnp.einsum(equation, x, y, precision=jax.lax.Precision.HIGHEST)


@jax.custom_vjp
def _without_gradient(*operands: Array) -> tuple[Array, ...]:
  return operands


def _refuse(*_: Any) -> Any:
  raise Unsupported(
    "window_attention: implementation is 'low_bit', which has no gradient; allowed: auto, xla, pallas_*"
  )


_without_gradient.defvjp(_refuse, _refuse)
