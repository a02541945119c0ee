"""Which blocks of keys a block of queries meets: listed on the host, from what is known before anything runs.

Tokens are regrouped b (n u) l -> b u (n l): u units of n frames. With one unit per phase of the dilation, the frames of
a unit are neighbors in the window; with one unit per frame a block never crosses a frame's edge, the regrouping is a
free reshape whatever the dilation, and a frame-level rule shows a block whole or not at all.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, Num

from pallas_kernels.window_attention.visibility import MaskRule, Span

HIDDEN, PARTIAL, WHOLE = 0, 1, 2  # what a block of queries may see of a block of keys


@dataclasses.dataclass(frozen=True)
class Rows:
  """The tokens of an operand, regrouped and cut into blocks.

  Attributes:
    frames, tokens: frames, and tokens a frame.
    units: frames n*units + u form unit u.
    block: rows of a block; the last block of a unit may reach over its end.
    first: index, among the key's frames, of this operand's first frame.
  """

  frames: int
  tokens: int
  units: int
  block: int
  first: int = 0

  @property
  def length(self) -> int:
    """Rows of a unit."""
    return -(-self.frames // self.units) * self.tokens

  @property
  def blocks(self) -> int:
    """Blocks of a unit."""
    return -(-self.length // self.block)

  @property
  def count(self) -> int:
    """Blocks of all units; block i of unit u has number u * blocks + i."""
    return self.units * self.blocks

  @property
  def ragged(self) -> bool:
    """Whether a block holds rows that are no token."""
    return self.length % self.block != 0 or self.frames % self.units != 0

  @property
  def within_frames(self) -> bool:
    """Whether every block is a piece of one frame."""
    return self.length == self.tokens and not self.ragged

  def regroup(self, x: Num[Array, "B F L H D"]) -> Num[Array, "B U R HD"]:
    x = jnp.pad(x, ((0, 0), (0, -self.frames % self.units), (0, 0), (0, 0), (0, 0)))
    return rearrange(x, "b (n u) l h d -> b u (n l) (h d)", u=self.units)

  def ungroup(self, x: Float[Array, "B U R HD"], heads: int) -> Float[Array, "B F L H D"]:
    x = rearrange(x, "b u (n l) (h d) -> b (n u) l h d", l=self.tokens, h=heads)
    return x[:, : self.frames]


class Places(NamedTuple):
  """Rows of one unit, as an operand of the rule: a scalar or a vector of frames, and of indices within a phase."""

  frame: Int[Array, "*S"]
  index: Int[Array, "*S"]


@dataclasses.dataclass(frozen=True)
class Plan:
  """Everything about a call that is known before it runs: hashable, the key of the cached block lists.

  Attributes:
    rule: what the layer allows; under the token-level rule with the dilation that the clip really has.
    query, key: how the operands are cut.
    num_observed: the least and the most that a traced history may be.
    padded: whether some frames may be no history and no future but padding.
  """

  rule: MaskRule
  query: Rows
  key: Rows
  num_observed: tuple[int, int] = (0, 0)
  padded: bool = False

  @property
  def by_frame(self) -> bool:
    """Whether a pair of blocks is visible whole or not at all, so that one scalar says it."""
    return self.rule.unit == "frame" and self.query.within_frames and self.key.within_frames

  def sees(self, query: Places, key: Places, span: tuple[Int[Array, ""], ...]) -> Bool[Array, "*S"]:
    """Who sees whom, inside a kernel; `span` is history, start and stop of the clip at hand."""
    num_observed, start, stop = span
    if self.rule.unit == "frame":
      visible = self.rule.allows(query.frame, key.frame, num_observed) & self.rule.holds(key.frame, start)
    else:
      visible = self.rule.near_tokens(query.index, key.index, self.key.tokens)
    return visible & (key.frame < stop) & (query.frame < self.query.first + self.query.frames)

  def places(self, rows: Rows, block: Int[Array, ""], shape: tuple[int, int] | None = None) -> Places:
    """Where the rows of a block lie, inside a kernel: as a vector of this shape; None: the first row alone."""
    unit, row = jax.lax.div(block, rows.blocks), jax.lax.rem(block, rows.blocks) * rows.block
    if shape is not None:
      row = row + jax.lax.broadcasted_iota(jnp.int32, shape, int(shape[0] == 1))
    frame = rows.first + unit + jax.lax.div(row, rows.tokens) * rows.units
    return Places(frame, jax.lax.div(unit, self.rule.dilation) * rows.tokens + row)


class BlockList(NamedTuple):
  """For each block of one operand the blocks of the other that it meets: those seen whole, then those seen in part.

  Attributes:
    block: their numbers; a row that is shorter than the longest repeats its last, so that nothing is fetched for it.
    kind: PARTIAL, WHOLE, or HIDDEN for a repetition.
  """

  block: Int[np.ndarray, "N M"]
  kind: Int[np.ndarray, "N M"]


@functools.lru_cache(maxsize=256)
def blocks_of_keys(plan: Plan) -> BlockList:
  """For each block of queries, the blocks of keys that may be visible."""
  return _listed(kinds(plan))


@functools.lru_cache(maxsize=256)
def blocks_of_queries(plan: Plan) -> BlockList:
  """For each block of keys, the blocks of queries that may see it."""
  return _listed(kinds(plan).T)


def kinds(plan: Plan) -> Int[np.ndarray, "N M"]:
  """HIDDEN, PARTIAL or WHOLE for each block of queries (rows) and of keys (columns)."""
  possible, certain = _token_level(plan) if plan.rule.unit == "token" else _frame_level(plan)
  return np.where(certain, WHOLE, np.where(possible, PARTIAL, HIDDEN)).astype(np.int32)


def _frame_level(plan: Plan):
  query = plan.query.first + np.arange(plan.query.frames)[:, None]
  key = np.arange(plan.key.frames)[None]
  # As history grows, a pair's visibility can change where it passes the query and where it passes the key.
  low, high = plan.num_observed
  allowed = [plan.rule.allows(query, key, np.clip(n, low, high)) for n in (low, query + 1, key + 1)]
  sometimes, always = np.any(allowed, axis=0), np.all(allowed, axis=0) & (not plan.padded)
  queries, whole_queries = _frames_of_blocks(plan.query)
  keys, whole_keys = _frames_of_blocks(plan.key)
  meets = lambda pairs: queries @ pairs.astype(np.float32) @ keys.T > 0  # noqa: E731
  return meets(sometimes), ~meets(~always) & whole_queries[:, None] & whole_keys


def _frames_of_blocks(rows: Rows):
  """[blocks frames]: which frames a block holds tokens of; [blocks]: whether it holds tokens alone."""
  start = np.tile(np.arange(rows.blocks), rows.units) * rows.block
  unit = np.repeat(np.arange(rows.units), rows.blocks)
  frame = np.arange(rows.frames)
  step = frame // rows.units
  stop = np.minimum(start + rows.block, rows.length)
  holds = (start[:, None] // rows.tokens <= step) & (step <= (stop[:, None] - 1) // rows.tokens)
  holds &= unit[:, None] == frame % rows.units
  last = (stop - 1) // rows.tokens * rows.units + unit
  return holds.astype(np.float32), (start + rows.block <= rows.length) & (last < rows.frames)


def _token_level(plan: Plan):
  (phase, first, last, whole), (key_phase, key_first, key_last, whole_key) = (
    _span_of_blocks(plan, rows) for rows in (plan.query, plan.key)
  )
  reach = np.inf if plan.rule.window_size is None else plan.rule.window_size * plan.key.tokens
  nearest = np.maximum(key_first - last[:, None], first[:, None] - key_last)
  farthest = np.maximum(key_last - first[:, None], last[:, None] - key_first)
  same = phase[:, None] == key_phase
  return same & (nearest <= reach), same & (farthest <= reach) & whole[:, None] & whole_key


def _span_of_blocks(plan: Plan, rows: Rows):
  """[blocks] each: phase, first and last index within it, and whether the block holds tokens alone."""
  unit, start = np.divmod(np.arange(rows.count), rows.blocks)
  start = start * rows.block
  stop = np.minimum(start + rows.block, rows.length)
  before = unit // plan.rule.dilation * rows.tokens
  _, whole = _frames_of_blocks(rows)
  return unit % plan.rule.dilation, before + start, before + stop - 1, whole


def _listed(kinds) -> BlockList:
  order = np.argsort(-kinds, axis=1, kind="stable")
  order = order[:, : max(1, np.count_nonzero(kinds, axis=1).max())]
  kind = np.take_along_axis(kinds, order, axis=1)
  last = np.maximum(np.count_nonzero(kind, axis=1) - 1, 0)
  block = np.where(kind == HIDDEN, np.take_along_axis(order, last[:, None], axis=1), order)
  return BlockList(block.astype(np.int32), kind)


def span_of(plan: Plan, span: Span, batch: int) -> Int[Array, "B 3"]:
  """History, start and stop of each clip, with what is None filled in."""
  frames = plan.key.frames
  values = (span.num_observed, 0 if span.start is None else span.start, frames if span.stop is None else span.stop)
  columns = [jnp.broadcast_to(jnp.asarray(value, jnp.int32), (batch,)) for value in values]
  return jnp.stack(columns, axis=1).at[:, 2].min(frames)
