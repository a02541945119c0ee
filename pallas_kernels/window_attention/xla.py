"""Window attention that computes the frames in the window and no others: cost and memory linear in frames.

A dilated window is a plain one after regrouping: frames of one phase, `dilation` apart, become neighbors. Query frames
are then walked in blocks, each against the few frames around it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from pallas_kernels.window_attention.visibility import HIDDEN_SCORE, MaskRule, Span

SAVED = "window_attention"  # what a checkpoint keeps of a block

# [N] query frames, [N] key frames -> who sees whom, from positions [phase, frame in phase, token in frame].
Visible = Callable[[Int[Array, "N"], Int[Array, "M"]], Bool[Array, "B P Q K"]]

# Keys and values in whatever form they are attended to: a tree of arrays [B G ...], frames on the second axis.
Pack = Callable[[Float[Array, "B G L H D"], Float[Array, "B G L H D"]], Any]
# [B P N L H D] queries, what was packed of frames [B P M ...], who sees whom -> what each query reads.
Attend = Callable[[Float[Array, "B P N L H D"], Any, Bool[Array, "#B #P Q K"]], Float[Array, "B P N L H D"]]


def window_attention(
  q: Float[Array, "B F L H D"],
  k: Float[Array, "B G L H D"],
  v: Float[Array, "B G L H D"],
  rule: MaskRule,
  span: Span,
  first: int | None = None,
) -> Float[Array, "B F L H D"]:
  """Same contract as `api.window_attention`; query i is frame `first + i` of the keys, None: they are the last."""
  return in_windows(q, k, v, rule, span, first, lambda *x: x, lambda q, x, mask: _softmax_attention(q, *x, mask))


def in_windows(
  q: Float[Array, "B F L H D"],
  k: Float[Array, "B G L H D"],
  v: Float[Array, "B G L H D"],
  rule: MaskRule,
  span: Span,
  first: int | None,
  pack: Pack,
  attend: Attend,
) -> Float[Array, "B F L H D"]:
  """`window_attention` whose keys and values are packed once and then attended to, a block of queries at a time."""
  if rule.unit == "token":
    return _token_level(q, k, v, rule, pack, attend)
  return _frame_level(q, pack(k, v), rule, span, k.shape[1], first, attend)


def action_attention(
  q: Float[Array, "B A H D"],
  k: Float[Array, "B A H D"],
  v: Float[Array, "B A H D"],
  video_k: Float[Array, "B N L H D"],
  video_v: Float[Array, "B N L H D"],
  span: Span,
) -> Float[Array, "B A H D"]:
  """Same contract as `api.action_attention`."""
  (frames, tokens), (batch, actions) = video_k.shape[1:3], q.shape[:2]
  k, v = (
    jnp.concatenate([rearrange(x, "b n l h d -> b (n l) h d"), y], axis=1) for x, y in ((video_k, k), (video_v, v))
  )
  video = jnp.broadcast_to(jnp.repeat(span.holds(jnp.arange(frames)), tokens, axis=1), (batch, frames * tokens))
  mask = jnp.pad(video, ((0, 0), (0, actions)), constant_values=True)
  return jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None, :])


def read_video(
  q: Float[Array, "B A H D"],
  video_k: Float[Array, "B N L H D"],
  video_v: Float[Array, "B N L H D"],
  span: Span,
) -> tuple[Float[Array, "B A H D"], Float[Array, "B A H"]]:
  """Same contract as `flash.read_video`."""
  k, v = (rearrange(x, "b n l h d -> b (n l) h d") for x in (video_k, video_v))
  seen = jnp.repeat(span.holds(jnp.arange(video_k.shape[1])), video_k.shape[2], axis=1)
  scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
  scores = jnp.where(seen[:, None, None], scores, HIDDEN_SCORE)
  out = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores).astype(v.dtype), v)
  return out, rearrange(jax.nn.logsumexp(scores, axis=-1), "b h q -> b q h")


def _frame_level(q, keys, rule: MaskRule, span: Span, total: int, first: int | None, attend: Attend):
  (frames, tokens), dilation = q.shape[1:3], rule.dilation
  past = total - frames if first is None else first
  lead = -past % dilation  # so that the first query frame has phase 0
  phase = jnp.arange(dilation)[:, None, None]
  num_observed = jnp.atleast_1d(jnp.asarray(span.num_observed))[:, None, None, None]
  span = dataclasses.replace(span, start=jnp.zeros(1, int) if span.start is None else span.start)

  # History that everyone sees, or anchors, are gathered once, whole; the window then holds the rest.
  history = rule.all_see_history and rule.window_size is not None
  gather = history or bool(rule.anchors)
  gathered = max(_history_bound(span, total) if history else 0, min(rule.anchors, total))
  always = jax.tree.map(lambda x: x[:, :gathered], keys) if gather else None
  in_window = dataclasses.replace(rule, all_see_history=False, anchors=0) if gather else rule
  apart = jnp.maximum(num_observed if history else 0, rule.anchors)  # keys before this are among the gathered

  def per_token(mask):
    return jnp.repeat(jnp.repeat(mask, tokens, axis=-2), tokens, axis=-1)

  def visible(query, key):
    query = query[:, None] * dilation + phase + past
    key = key[None, :] * dilation + phase - lead
    seen = in_window.sees(query, key, span) & (key < total)
    return per_token(seen & (key >= apart) if gather else seen)

  def visible_always(query):
    query = query[:, None] * dilation + phase + past
    key = jnp.arange(gathered)[None, None, :]
    return per_token(rule.sees(query, key, span) & (key < apart))

  q, keys = _regroup(q, 0, dilation), _regroup(keys, lead, dilation)
  reach = None if rule.window_size is None else rule.window_size - 1
  out = _banded(q, keys, (lead + past) // dilation, reach, attend, visible, always, visible_always)
  return rearrange(out, "b p n l h d -> b (n p) l h d")[:, :frames]


def _history_bound(span: Span, frames: int) -> int:
  if isinstance(span.num_observed, int):
    return min(span.num_observed, frames)
  return frames if span.num_observed_bound is None else min(span.num_observed_bound, frames)


def _token_level(q, k, v, rule: MaskRule, pack: Pack, attend: Attend):
  frames, tokens = q.shape[1:3]
  dilation, tail = rule.token_dilation(frames)
  q, k, v = (_pad_frames(x, 0, tail) for x in (q, k, v))
  q, keys = (_regroup(x, 0, dilation) for x in (q, pack(k, v)))
  total = q.shape[2]

  def visible(query, key):
    offset = jnp.arange(tokens)
    query_tokens, key_tokens = ((x[:, None] * tokens + offset).reshape(-1) for x in (query, key))
    inside = jnp.repeat((key >= 0) & (key < total), tokens)
    return (rule.near_tokens(query_tokens[:, None], key_tokens[None], tokens) & inside)[None, None]

  out = _banded(q, keys, 0, rule.window_size, attend, visible)
  return rearrange(out, "b p n l h d -> b (n p) l h d")[:, :frames]


def _regroup(tree, lead: int, dilation: int):
  """Frames [B G ...] as those of each phase, [B P N ...], behind `lead` frames of zeros."""

  def regroup(x):
    return rearrange(_pad_frames(x, lead, -(lead + x.shape[1]) % dilation), "b (n p) ... -> b p n ...", p=dilation)

  return jax.tree.map(regroup, tree)


def _pad_frames(x, before: int, after: int, axis: int = 1):
  return jnp.pad(x, [(before, after) if i == axis else (0, 0) for i in range(x.ndim)])


def _banded(
  q: Float[Array, "B P N L H D"],
  keys: Any,
  offset: int,
  reach: int | None,
  attend: Attend,
  visible: Visible,
  always: Any = None,
  visible_always: Callable[[Int[Array, "N"]], Bool[Array, "B P Q A"]] | None = None,
) -> Float[Array, "B P N L H D"]:
  """Query frame n meets key frames n + offset - reach .. n + offset + reach, and the frames in `always`.

  `keys` and `always` are packed: trees of arrays [B P M ...] and [B A ...].
  """
  phases, count = q.shape[1:3]
  total = jax.tree.leaves(keys)[0].shape[2]
  if reach is None:
    reach = total
  block = min(count, reach + 1)  # a wider block wastes work at its edges, a narrower one splits matrix products
  if block + 2 * reach >= total:
    block = count  # each block would meet all keys, or more
  blocks = -(-count // block)

  def join(x, more):
    more = jnp.broadcast_to(more[:, None], (more.shape[0], phases, *more.shape[1:]))
    return jnp.concatenate([x, more], axis=2)

  def meet(q, keys, query, key):
    mask = visible(query, key)
    if always is not None and visible_always is not None:
      keys = jax.tree.map(join, keys, always)
      seen = visible_always(query)
      shape = jnp.broadcast_shapes(mask.shape[:-1], seen.shape[:-1])
      mask = jnp.concatenate([jnp.broadcast_to(x, (*shape, x.shape[-1])) for x in (mask, seen)], axis=-1)
    return attend(q, keys, mask)

  if blocks == 1:
    first, last = max(0, offset - reach), min(total, offset + count + reach)
    near = jax.tree.map(lambda x: x[:, :, first:last], keys)
    return meet(q, near, jnp.arange(count), jnp.arange(first, last))

  back = offset + blocks * block + reach - total
  keys = jax.tree.map(lambda x: _pad_frames(x, reach, max(back, 0), axis=2), keys)
  q = _pad_frames(q, 0, blocks * block - count, axis=2)

  # A backward pass keeps neither scores nor the overlapping blocks of keys.
  @functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(SAVED))
  def one_block(index):
    start = index * block
    cut = functools.partial(jax.lax.dynamic_slice_in_dim, axis=2)
    near = jax.tree.map(lambda x: cut(x, start + offset, block + 2 * reach), keys)
    key = start + offset - reach + jnp.arange(block + 2 * reach)
    return meet(cut(q, start, block), near, start + jnp.arange(block), key)

  out = jax.lax.map(one_block, jnp.arange(blocks))
  return rearrange(out, "blocks b p n l h d -> b p (blocks n) l h d")[:, :, :count]


@jax.custom_vjp
def _softmax_attention(q, k, v, mask):
  """Softmax in float32; a query that sees nothing (padding) gets an average that nobody reads.

  Its own derivative is that of flash attention: from the output and the log-sum-exp, without the sums of a softmax.
  """
  return _softmax_attention_forward(q, k, v, mask)[0]


def _softmax_attention_forward(q, k, v, mask):
  shape = q.shape
  q, k, v = (rearrange(x, "b p n l h d -> b p (n l) h d") for x in (q, k, v))
  scores = _scores(q, k, mask)
  peak = jnp.max(scores, axis=-1, keepdims=True)
  weights = jnp.exp(scores - peak)
  total = jnp.sum(weights, axis=-1, keepdims=True)
  out = jnp.einsum("bphqk,bpkhd->bphqd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32) / total
  out = checkpoint_name(rearrange(out, "b p h q d -> b p q h d").astype(v.dtype), SAVED)
  log_total = checkpoint_name(peak + jnp.log(total), SAVED)
  return out.reshape(shape), (q, k, v, mask, out, log_total)


def _softmax_attention_backward(residuals, d_out):
  q, k, v, mask, out, log_total = residuals
  shape, d_out = d_out.shape, d_out.reshape(out.shape)
  weights = jnp.where(mask[:, :, None], jnp.exp(_scores(q, k, mask) - log_total), 0.0)
  delta = jnp.einsum("bpqhd,bpqhd->bphq", d_out, out, preferred_element_type=jnp.float32)[..., None]
  d_weights = jnp.einsum("bpqhd,bpkhd->bphqk", d_out, v, preferred_element_type=jnp.float32)
  d_scores = (weights * (d_weights - delta) * q.shape[-1] ** -0.5).astype(q.dtype)
  d_q = jnp.einsum("bphqk,bpkhd->bpqhd", d_scores, k)
  d_k = jnp.einsum("bphqk,bpqhd->bpkhd", d_scores, q)
  d_v = jnp.einsum("bphqk,bpqhd->bpkhd", weights.astype(v.dtype), d_out)
  return *(rearrange(x, "b p (n l) h d -> b p n l h d", l=shape[3]) for x in (d_q, d_k, d_v)), None


_softmax_attention.defvjp(_softmax_attention_forward, _softmax_attention_backward)


def _scores(q: Float[Array, "B P Q H D"], k: Float[Array, "B P K H D"], mask: Bool[Array, "#B #P Q K"]):
  """[B P H Q K], in float32."""
  scores = jnp.einsum("bpqhd,bpkhd->bphqk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
  return jnp.where(mask[:, :, None], scores, HIDDEN_SCORE)
