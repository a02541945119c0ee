"""Attention over windows of frames on a mesh: batch and heads are cut freely, time with a halo of frames.

A device computes its own query frames. Keys and values that they may see on other devices come by `ppermute`
(`halo`); actions read each device's frames where they are, and only the few reads are summed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.layout import Layout
from pallas_kernels.window_attention import halo as halo_lib
from pallas_kernels.window_attention.visibility import MaskRule, Span

Past = tuple[Float[Array, "B E L H D"], Float[Array, "B E L H D"]]


def window_attention(
  local: Callable[..., Array],
  layout: Layout,
  q: Float[Array, "B F L H D"],
  k: Float[Array, "B G L H D"],
  v: Float[Array, "B G L H D"],
  rule: MaskRule,
  span: Span,
  past: Past | None,
) -> Float[Array, "B F L H D"]:
  """`local` (q, k, v, rule, span, first) on every device's share; the frames of `past` lie before those of k and v.

  Time is cut if all of G = F and the layout and the rule allow it: the token-level rule appends frames to the clip, and
  anchors are counted from the first key.
  """
  by_time = bool(layout.time) and rule.unit == "frame" and not rule.anchors and q.shape[1] == k.shape[1]
  layout = layout if by_time else layout._replace(time=(), devices=1)
  clip = layout.spec("bt.h.")
  bounds = _bounds(span, q.shape[0], (past[0].shape[1] if past else 0) + k.shape[1])

  def share(q, k, v, past, bounds):
    if by_time:
      return _one_shard(local, layout, q, k, v, rule, bounds, past)
    k, v = with_past(past, k, v)
    known = isinstance(span.num_observed, int) and span.start is None and span.stop is None
    return local(q, k, v, rule, span if known else _span(span, bounds), None)

  specs = (clip, clip, clip, None if past is None else (layout.spec("b..h."),) * 2, layout.spec("b."))
  return jax.shard_map(share, in_specs=specs, out_specs=clip, check_vma=False)(q, k, v, past, bounds)


def with_past(past: Past | None, k: Array, v: Array) -> tuple[Array, Array]:
  """Keys and values of all frames."""
  if past is None:
    return k, v
  return jnp.concatenate([past[0], k], axis=1), jnp.concatenate([past[1], v], axis=1)


def _one_shard(local, layout: Layout, q, k, v, rule: MaskRule, bounds: Int[Array, "B 3"], past: Past | None):
  (axis,), frames = layout.time, q.shape[1]
  earlier = past[0].shape[1] if past else 0
  halo = halo_lib.make_halo(rule, frames, layout.devices, earlier)
  begin = jax.lax.axis_index(axis) * frames

  def keys(x, old):
    x = halo_lib.gather(x, halo, axis, layout.devices)
    if old is None or not halo.back:
      return x
    # The memory is on all devices; those near the beginning have some of it before their own frames.
    old = jnp.pad(old[:, max(earlier - halo.back, 0) :], _frames(max(halo.back - earlier, 0), halo.back))
    seen = jax.lax.dynamic_slice_in_dim(old, jnp.minimum(begin, halo.back), halo.back, axis=1)
    return x.at[:, : halo.back].add(seen)

  k, v = keys(k, past and past[0]), keys(v, past and past[1])
  # All counts are relative to the first key that is here; frames outside the clip are hidden by its start and stop.
  bounds = jnp.clip(bounds - (earlier + begin - halo.back), 0, k.shape[1])
  return local(q, k, v, rule, Span(*bounds.T), halo.back)


def action_attention(
  local: Callable[..., Array],
  read: Callable[..., tuple[Array, Array]],
  layout: Layout,
  q: Float[Array, "B A H D"],
  k: Float[Array, "B A H D"],
  v: Float[Array, "B A H D"],
  video_k: Float[Array, "B N L H D"],
  video_v: Float[Array, "B N L H D"],
  span: Span,
) -> Float[Array, "B A H D"]:
  """`local` where time is whole; else each device `read`s its own frames (q, k, v, span), and the reads are joined."""
  actions, video = layout.spec("b.h."), layout.spec("bt.h.")
  bounds = _bounds(span, q.shape[0], video_k.shape[1])

  def share(q, k, v, video_k, video_v, bounds):
    if not layout.time:
      return local(q, k, v, video_k, video_v, _span(span, bounds))
    (axis,), frames = layout.time, video_k.shape[1]
    here = jnp.clip(bounds - jax.lax.axis_index(axis) * frames, 0, frames)
    out, lse = read(q, video_k, video_v, Span(*here.T))
    most = jax.lax.pmax(jax.lax.stop_gradient(lse), axis)
    weight = jnp.exp(lse - most)
    total = jax.lax.psum(weight, axis)
    out = jax.lax.psum(weight[..., None] * out.astype(jnp.float32), axis) / total[..., None]
    return join_own(q, k, v, out, most + jnp.log(total))

  specs = (*(actions,) * 3, video, video, layout.spec("b."))
  return jax.shard_map(share, in_specs=specs, out_specs=actions, check_vma=False)(q, k, v, video_k, video_v, bounds)


def join_own(q: Array, k: Array, v: Array, read: Array, lse: Float[Array, "B A H"]) -> Float[Array, "B A H D"]:
  """What actions read of the video, with this log-sum-exp of their scores, and of each other."""
  scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
  own = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores).astype(v.dtype), v)
  own_lse = jnp.moveaxis(jax.nn.logsumexp(scores, axis=-1), 1, 2)
  share = jax.nn.sigmoid(lse - own_lse)[..., None]  # of the softmax's weight, what lies on the video
  return (share * read + (1 - share) * own).astype(q.dtype)


def _bounds(span: Span, batch: int, frames: int) -> Int[Array, "B 3"]:
  """History, start and stop of each clip, in frames of all keys."""
  stop = frames if span.stop is None else jnp.minimum(span.stop, frames)
  values: tuple[Any, ...] = (span.num_observed, 0 if span.start is None else jnp.maximum(span.start, 0), stop)
  return jnp.stack([jnp.broadcast_to(jnp.asarray(x, jnp.int32), (batch,)) for x in values], axis=1)


def _span(span: Span, bounds: Int[Array, "B 3"]) -> Span:
  num_observed, start, stop = bounds.T
  return Span(num_observed, start, stop, num_observed_bound=span.num_observed_bound)


def _frames(before: int, after: int) -> tuple[tuple[int, int], ...]:
  return ((0, 0), (before, after), (0, 0), (0, 0), (0, 0))
