"""What the two kernels share: how a call is cut into blocks, and the derivative of attention."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pallas_kernels.window_attention.blocks import Plan, Rows, span_of
from pallas_kernels.window_attention.sharded import join_own
from pallas_kernels.window_attention.visibility import MaskRule, Span

LOG2_E = 1.4426950408889634  # exp2 is what the hardware has


class Cut(NamedTuple):
  """How operands are cut into blocks.

  Attributes:
    query, key: rows of a block, in the passes that walk keys (forward, dq) and in the one that walks queries (dk, dv).
    pieces: whether every block stays within a frame.
  """

  query: tuple[int, int]
  key: tuple[int, int]
  pieces: bool


class Kernels(NamedTuple):
  """One platform's three kernels. Operands are [B U R H*D], statistics of query rows [B H U R] in float32, base 2."""

  forward: Callable[..., tuple[Array, Array]]
  query_gradient: Callable[..., Array]
  key_gradient: Callable[..., tuple[Array, Array]]


def window_attention(
  kernels: Kernels,
  cut: Cut,
  lanes: int,
  q: Float[Array, "B F L H D"],
  k: Float[Array, "B G M H D"],
  v: Float[Array, "B G M H D"],
  rule: MaskRule,
  span: Span,
  first: int | None = None,
) -> tuple[Float[Array, "B F L H D"], Float[Array, "B F L H"]]:
  """Attention by `kernels`, whose heads must be a multiple of `lanes` wide; also log-sum-exp of each query's scores.

  Queries may have another number of tokens a frame than keys. A query that sees nothing reads zeros.
  """
  plans = make_plans(rule, span, q.shape, k.shape, cut, first)
  query, key = plans[0].query, plans[0].key
  heads, width = q.shape[-2:]
  # Zeros change no score. The matrix units fill their lanes anyway: a narrow head costs time, never a wrong number.
  q, k, v = (jnp.pad(x, ((0, 0),) * 4 + ((0, -width % lanes),)) for x in (q, k, v))
  k, v = (jnp.pad(x, ((0, 0), (0, key.frames - x.shape[1])) + ((0, 0),) * 3) for x in (k, v))
  out, lse = _attend(
    query.regroup(q), key.regroup(k), key.regroup(v), span_of(plans[0], span, q.shape[0]), kernels, plans, heads, width
  )
  lse = query.ungroup(rearrange(lse, "b h u r -> b u r h"), heads)[..., 0]
  return query.ungroup(out, heads)[..., :width], lse


def action_attention(
  kernels: Kernels,
  cut: Cut,
  lanes: int,
  q: Float[Array, "B A H D"],
  k: Float[Array, "B A H D"],
  v: Float[Array, "B A H D"],
  video_k: Float[Array, "B N L H D"],
  video_v: Float[Array, "B N L H D"],
  span: Span,
) -> Float[Array, "B A H D"]:
  """Actions read the video by `kernels` and each other by plain products; no copy joins the two sets of keys."""
  read, lse = read_video(kernels, cut, lanes, q, video_k, video_v, span)
  return join_own(q, k, v, read, lse)


def read_video(
  kernels: Kernels,
  cut: Cut,
  lanes: int,
  q: Float[Array, "B A H D"],
  video_k: Float[Array, "B N L H D"],
  video_v: Float[Array, "B N L H D"],
  span: Span,
) -> tuple[Float[Array, "B A H D"], Float[Array, "B A H"]]:
  """What actions read of a video's frames alone, and log-sum-exp of their scores."""
  everything = MaskRule(history_sees_future=True)
  read, lse = window_attention(kernels, cut, lanes, q[:, None], video_k, video_v, everything, span)
  return read[:, 0], lse[:, 0]


def tile_key(tokens: int, head_dim: int, dtype: DTypeLike) -> str:
  """Under which tuned tiles are kept."""
  return f"{tokens} tokens a frame, heads of {head_dim}, {jnp.dtype(dtype).name}"


def make_plans(
  rule: MaskRule,
  span: Span,
  query_shape: tuple[int, ...],
  key_shape: tuple[int, ...],
  cut: Cut,
  first: int | None = None,
) -> tuple[Plan, Plan]:
  """How a call is cut: for the passes that walk keys, and for the one that walks queries."""
  (frames, tokens), (total, key_tokens) = query_shape[1:3], key_shape[1:3]
  if rule.unit == "token":
    dilation, padding = rule.token_dilation(frames)
    rule, first, total = MaskRule(rule.window_size, dilation, unit="token"), 0, total + padding
  elif first is None:
    first = total - frames
  if isinstance(span.num_observed, int):
    num_observed = span.num_observed, span.num_observed
  else:
    num_observed = 0, total if span.num_observed_bound is None else min(span.num_observed_bound, total)
  padded = span.start is not None or span.stop is not None
  query_units, key_units = (frames, total) if cut.pieces else (rule.dilation, rule.dilation)

  def one(query_block: int, key_block: int) -> Plan:
    query = Rows(frames, tokens, query_units, query_block, first)
    return Plan(rule, query, Rows(total, key_tokens, key_units, key_block), num_observed, padded)

  return one(cut.query[0], cut.key[0]), one(cut.query[1], cut.key[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def _attend(
  q: Float[Array, "B U R HD"],
  k: Float[Array, "B V S HD"],
  v: Float[Array, "B V S HD"],
  span: Int[Array, "B 3"],
  kernels: Kernels,
  plans: tuple[Plan, Plan],
  heads: int,
  width: int,
) -> tuple[Float[Array, "B U R HD"], Float[Array, "B H U R"]]:
  out, lse2 = kernels.forward(q, k, v, span, plan=plans[0], heads=heads, scale=width**-0.5)
  return out, lse2 / LOG2_E


def _forward(q, k, v, span, kernels, plans, heads, width):
  out, lse = _attend(q, k, v, span, kernels, plans, heads, width)
  return (out, lse), (q, k, v, span, out, lse)


def _backward(kernels, plans, heads, width, kept, gradients):
  q, k, v, span, out, lse = kept
  d_out, d_lse = gradients
  split = lambda x: rearrange(x.astype(jnp.float32), "b u r (h d) -> b h u r d", h=heads)  # noqa: E731
  # d score = p (d p - delta): what the softmax's normalization takes back, less what reaches log-sum-exp directly.
  delta = jnp.sum(split(out) * split(d_out), axis=-1) - d_lse
  operands = q, k, v, span, d_out.astype(q.dtype), lse * LOG2_E, delta
  dq = kernels.query_gradient(*operands, plan=plans[0], heads=heads, scale=width**-0.5)
  dk, dv = kernels.key_gradient(*operands, plan=plans[1], heads=heads, scale=width**-0.5)
  return dq, dk, dv, None


_attend.defvjp(_forward, _backward)
