"""Window attention with a dense mask: the oracle. Quadratic; for tests only."""

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jaxtyping import Array, Float

from pallas_kernels.window_attention.visibility import MaskRule, Span


def window_attention(
  q: Float[Array, "B F L H D"],
  k: Float[Array, "B G L H D"],
  v: Float[Array, "B G L H D"],
  rule: MaskRule,
  span: Span,
  first: int | None = None,
) -> Float[Array, "B F L H D"]:
  """Same contract as `api.window_attention`; query i is frame `first + i` of the keys, None: they are the last."""
  if rule.unit == "token":
    return _token_level(q, k, v, rule)
  frames, tokens = q.shape[1:3]
  first = k.shape[1] - frames if first is None else first
  query = repeat(jnp.arange(first, first + frames), "f -> (f l) 1", l=tokens)
  key = repeat(jnp.arange(k.shape[1]), "g -> 1 (g l)", l=tokens)
  return _attend(q, k, v, rule.sees(query, key, span)[:, None])


def action_attention(
  q: Float[Array, "B A H D"],
  k: Float[Array, "B A H D"],
  v: Float[Array, "B A H D"],
  video_k: Float[Array, "B N L H D"],
  video_v: Float[Array, "B N L H D"],
  span: Span,
) -> Float[Array, "B A H D"]:
  """Same contract as `api.action_attention`."""
  frames, tokens = video_k.shape[1:3]
  video = repeat(span.holds(jnp.arange(frames)), "b n -> b 1 (n l)", l=tokens)
  mask = jnp.pad(video, ((0, 0), (0, 0), (0, q.shape[1])), constant_values=True)
  k, v = (
    jnp.concatenate([x.reshape(x.shape[0], 1, -1, *x.shape[3:]), y[:, None]], axis=2)
    for x, y in ((video_k, k), (video_v, v))
  )
  return _attend(q[:, None], k, v, mask[:, None])[:, 0]


def _token_level(q, k, v, rule: MaskRule):
  frames, tokens = q.shape[1:3]
  dilation, padding = rule.token_dilation(frames)
  if dilation > 1:
    q, k, v = (jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0), (0, 0))) for x in (q, k, v))
    q, k, v = (rearrange(x, "b (n d) ... -> (b d) n ...", d=dilation) for x in (q, k, v))
    out = _token_level(q, k, v, MaskRule(rule.window_size, unit="token"))
    return rearrange(out, "(b d) n ... -> b (n d) ...", d=dilation)[:, :frames]
  index = jnp.arange(frames * tokens)
  reach = frames * tokens if rule.window_size is None else rule.window_size * tokens
  return _attend(q, k, v, jnp.abs(index[:, None] - index[None, :]) <= reach)


def _attend(q, k, v, mask):
  tokens, dtype = q.shape[2], q.dtype
  wide = jnp.promote_types(dtype, jnp.float32)
  q, k, v = (rearrange(x, "b f l h d -> b (f l) h d").astype(wide) for x in (q, k, v))
  logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
  out = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(mask, logits, -1e30)), v)
  return rearrange(out, "b (f l) h d -> b f l h d", l=tokens).astype(dtype)
