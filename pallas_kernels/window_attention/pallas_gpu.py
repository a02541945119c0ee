"""Window attention on a GPU, through Triton: three flash kernels that walk host-made lists of blocks.

As on a TPU (see `pallas_tpu`), but the walk is a loop inside the kernel: first over blocks that are seen whole, then
over those that need a mask. Rows over the end of an array are read as zeros.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pallas_kernels import tiles as tile_table
from pallas_kernels.dispatch import Unsupported
from pallas_kernels.window_attention import flash
from pallas_kernels.window_attention.blocks import (
  HIDDEN,
  WHOLE,
  BlockList,
  Plan,
  Rows,
  blocks_of_keys,
  blocks_of_queries,
)
from pallas_kernels.window_attention.visibility import HIDDEN_SCORE, MaskRule, Span

ON_CHIP_BYTES = 99 * 2**10  # shared memory that a block of threads can have on every GPU since Ampere
WIDEST_HEAD = 128  # a block of queries, its sums and its scores live in registers
SMALLEST_PRODUCT = 16  # rows and columns of a matrix product that Triton takes


@dataclasses.dataclass(frozen=True)
class Tiles:
  """Rows of a block, powers of two.

  Attributes:
    stay: of the operand that stays on chip.
    stream: of the operand that streams by.
    warps: of 32 threads.
    stages: loads in flight.
  """

  stay: int
  stream: int
  warps: int = 4
  stages: int = 2


def on_chip_bytes(tiles: Tiles, head_dim: int, dtype: DTypeLike) -> int:
  """Shared memory of the hungriest pass, dk and dv.

  It holds k and v, once per stage q, do and two statistics, and of float32 weights one of their parts.
  """
  width, itemsize = pl.next_power_of_2(max(head_dim, SMALLEST_PRODUCT)), jnp.dtype(dtype).itemsize
  blocks = 2 * width * (tiles.stay + tiles.stages * tiles.stream) * itemsize
  return blocks + 2 * 4 * tiles.stages * tiles.stream + (2 * tiles.stay * tiles.stream if itemsize == 4 else 0)


def window_attention(
  q: Float[Array, "B F L H D"],
  k: Float[Array, "B G L H D"],
  v: Float[Array, "B G L H D"],
  rule: MaskRule,
  span: Span,
  first: int | None = None,
  *,
  tiles: Tiles | None = None,
  interpret: bool = False,
) -> Float[Array, "B F L H D"]:
  """Same contract as `api.window_attention`, and differentiable.

  Raises:
    Unsupported: the dtype is neither bfloat16 nor float32, or a head is wider than 128.
  """
  tiles = tiles or _pick_tiles(q)
  cut = flash.Cut((tiles.stay, tiles.stream), (tiles.stream, tiles.stay), _pieces(q.shape[2], tiles))
  return flash.window_attention(_kernels(tiles, interpret), cut, _lanes(q), q, k, v, rule, span, first)[0]


def action_attention(
  q: Float[Array, "B A H D"],
  k: Float[Array, "B A H D"],
  v: Float[Array, "B A H D"],
  video_k: Float[Array, "B N L H D"],
  video_v: Float[Array, "B N L H D"],
  span: Span,
  *,
  tiles: Tiles | None = None,
  interpret: bool = False,
) -> Float[Array, "B A H D"]:
  """Same contract as `api.action_attention`, and differentiable.

  Raises:
    Unsupported: the dtype is neither bfloat16 nor float32, or a head is wider than 128.
  """
  tiles = tiles or _pick_tiles(video_k)
  cut = flash.Cut((tiles.stay, tiles.stream), (tiles.stream, tiles.stay), _pieces(video_k.shape[2], tiles))
  return flash.action_attention(_kernels(tiles, interpret), cut, _lanes(q), q, k, v, video_k, video_v, span)


def read_video(
  q: Float[Array, "B A H D"],
  video_k: Float[Array, "B N L H D"],
  video_v: Float[Array, "B N L H D"],
  span: Span,
  *,
  tiles: Tiles | None = None,
  interpret: bool = False,
) -> tuple[Float[Array, "B A H D"], Float[Array, "B A H"]]:
  """Same contract as `flash.read_video`; refuses what `action_attention` does."""
  tiles = tiles or _pick_tiles(video_k)
  cut = flash.Cut((tiles.stay, tiles.stream), (tiles.stream, tiles.stay), _pieces(video_k.shape[2], tiles))
  return flash.read_video(_kernels(tiles, interpret), cut, _lanes(q), q, video_k, video_v, span)


def candidates(tokens: int, head_dim: int, dtype: DTypeLike) -> list[Tiles]:
  """Tiles that fit on chip, the likeliest first."""
  del tokens  # blocks are much smaller than a frame, or hold several
  tiles = [Tiles(stay, stream, warps) for stay in (64, 128, 32) for stream in (64, 32, 128) for warps in (4, 8)]
  return [x for x in tiles if on_chip_bytes(x, head_dim, dtype) <= ON_CHIP_BYTES]


def _pick_tiles(x: Float[Array, "B *S H D"]) -> Tiles:
  if x.dtype not in (jnp.bfloat16, jnp.float32):
    raise Unsupported(f"window_attention: dtype is {x.dtype}; allowed: bfloat16, float32")
  if x.shape[-1] > WIDEST_HEAD:
    raise Unsupported(f"window_attention: head size is {x.shape[-1]}; allowed: at most {WIDEST_HEAD}")
  shape = x.shape[2], x.shape[-1], x.dtype
  tuned = tile_table.lookup("window_attention", tile_table.target_kind(), flash.tile_key(*shape))
  return Tiles(**tuned) if tuned else candidates(*shape)[0]


def _pieces(tokens: int, tiles: Tiles) -> bool:
  """Whether blocks stay within frames: what they waste at a frame's end is then little."""
  return tokens >= 4 * max(tiles.stay, tiles.stream)


def _lanes(q: Float[Array, "B *S H D"]) -> int:
  return max(SMALLEST_PRODUCT, pl.next_power_of_2(q.shape[-1]))


def _kernels(tiles: Tiles, interpret: bool) -> flash.Kernels:
  passes = (_forward, _query_gradient, _key_gradient)
  return flash.Kernels(*(functools.partial(x, tiles=tiles, interpret=interpret) for x in passes))


def _forward(q, k, v, span, *, plan: Plan, heads: int, scale: float, tiles: Tiles, interpret: bool):
  rows = plan.query
  statistic = jax.ShapeDtypeStruct((q.shape[0], heads, rows.units, rows.length), jnp.float32)
  kernel = functools.partial(_forward_kernel, plan=plan, scale=scale)
  return _walk(kernel, blocks_of_keys(plan), rows, heads, span, [q, k, v], [q, statistic], tiles, interpret)


def _query_gradient(
  q, k, v, span, d_out, lse, delta, *, plan: Plan, heads: int, scale: float, tiles: Tiles, interpret: bool
):
  kernel = functools.partial(_query_gradient_kernel, plan=plan, scale=scale)
  operands = [q, k, v, d_out, lse, delta]
  (dq,) = _walk(kernel, blocks_of_keys(plan), plan.query, heads, span, operands, [q], tiles, interpret)
  return dq


def _key_gradient(
  q, k, v, span, d_out, lse, delta, *, plan: Plan, heads: int, scale: float, tiles: Tiles, interpret: bool
):
  kernel = functools.partial(_key_gradient_kernel, plan=plan, scale=scale)
  operands = [q, k, v, d_out, lse, delta]
  return _walk(kernel, blocks_of_queries(plan), plan.key, heads, span, operands, [k, v], tiles, interpret)


def _walk(
  kernel: functools.partial[None],
  listing: BlockList,
  stay: Rows,
  heads: int,
  span: Array,
  operands: Sequence[Array],
  out: Sequence[Array | jax.ShapeDtypeStruct],
  tiles: Tiles,
  interpret: bool,
) -> Sequence[Array]:
  """Runs a kernel over (block that stays, head, clip)."""
  ends = np.stack([(listing.kind == WHOLE).sum(1), (listing.kind != HIDDEN).sum(1)], axis=1).astype(np.int32)
  return pl.pallas_call(
    functools.partial(kernel, width=operands[0].shape[-1] // heads, exp2=jnp.exp2 if interpret else _exp2),
    grid=(stay.count, heads, span.shape[0]),
    out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in out],
    compiler_params=plgpu.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages),
    interpret=interpret,
    name=f"window_attention{kernel.func.__name__.removesuffix('_kernel')}",
  )(jnp.asarray(listing.block), jnp.asarray(ends), span, *operands)


class _Program(NamedTuple):
  """What one program works on: its block of the operand that stays, of one head of one clip."""

  block: Array
  head: Array
  clip: Array
  width: int

  @classmethod
  def here(cls, width: int) -> "_Program":
    return cls(pl.program_id(0), pl.program_id(1), pl.program_id(2), width)

  def load(self, ref, block: Array, rows: Rows, *, statistic: bool = False) -> Array:
    """Rows of a block [block width], or a statistic of them [block]; zeros for rows that do not exist."""
    view, exists = self._at(ref, block, rows, statistic)
    return plgpu.load(view, mask=exists, other=None if exists is None else 0.0)

  def store(self, ref, x: Array, rows: Rows, *, statistic: bool = False) -> None:
    """Writes this program's own block."""
    view, exists = self._at(ref, self.block, rows, statistic)
    plgpu.store(view, x.astype(ref.dtype), mask=exists)

  def _at(self, ref, block: Array, rows: Rows, statistic: bool):
    unit, row = jax.lax.div(block, rows.blocks), jax.lax.rem(block, rows.blocks) * rows.block
    here = pl.ds(row, rows.block)
    exists = row + jnp.arange(rows.block) < rows.length if rows.length % rows.block else None
    if statistic:
      return ref.at[self.clip, self.head, unit, here], exists
    lanes = pl.ds(self.head * self.width, self.width)
    return ref.at[self.clip, unit, here, lanes], None if exists is None else exists[:, None]


def _forward_kernel(
  blocks, ends, span, q_ref, k_ref, v_ref, out_ref, lse_ref, *, plan: Plan, scale: float, width: int, exp2
):  # fmt: skip
  program = _Program.here(width)
  q = program.load(q_ref, program.block, plan.query)

  def visit(key_block, mask, carry):
    peak, total, out = carry  # [bq], [bq], [bq D]
    scores = _product(q, program.load(k_ref, key_block, plan.key).T) * (scale * flash.LOG2_E)  # [bq bk]
    if mask is not None:
      scores = jnp.where(mask, scores, HIDDEN_SCORE)
    next_peak = jnp.maximum(peak, jnp.max(scores, axis=1))
    weights = exp2(scores - next_peak[:, None])
    if mask is not None:
      weights = jnp.where(mask, weights, 0.0)
    decay = exp2(peak - next_peak)
    v = program.load(v_ref, key_block, plan.key)
    out = decay[:, None] * out + _product(weights.astype(v.dtype), v)
    return next_peak, decay * total + jnp.sum(weights, axis=1), out

  start = (
    jnp.full(plan.query.block, HIDDEN_SCORE, jnp.float32),
    jnp.zeros(plan.query.block, jnp.float32),
    jnp.zeros(q.shape, jnp.float32),
  )
  peak, total, out = _visit_all(visit, program, plan, blocks, ends, span, start, keys_stream=True)
  sees = total > 0
  total = jnp.where(sees, total, 1.0)
  program.store(out_ref, out / total[:, None], plan.query)
  program.store(lse_ref, jnp.where(sees, peak + jnp.log2(total), HIDDEN_SCORE), plan.query, statistic=True)


def _query_gradient_kernel(
  blocks,
  ends,
  span,
  q_ref,
  k_ref,
  v_ref,
  d_out_ref,
  lse_ref,
  delta_ref,
  dq_ref,
  *,
  plan: Plan,
  scale: float,
  width: int,
  exp2,
):
  program = _Program.here(width)
  q, d_out = (program.load(x, program.block, plan.query) for x in (q_ref, d_out_ref))
  lse, delta = (program.load(x, program.block, plan.query, statistic=True) for x in (lse_ref, delta_ref))

  def visit(key_block, mask, dq):
    k, v = (program.load(x, key_block, plan.key) for x in (k_ref, v_ref))
    scores = _product(q, k.T) * (scale * flash.LOG2_E)  # [bq bk]
    d_weights = _product(d_out, v.T)
    d_scores = exp2(scores - lse[:, None]) * (d_weights - delta[:, None])
    if mask is not None:
      d_scores = jnp.where(mask, d_scores, 0.0)
    return dq + _product(d_scores.astype(k.dtype), k)

  dq = _visit_all(visit, program, plan, blocks, ends, span, jnp.zeros(q.shape, jnp.float32), keys_stream=True)
  program.store(dq_ref, scale * dq, plan.query)


def _key_gradient_kernel(
  blocks,
  ends,
  span,
  q_ref,
  k_ref,
  v_ref,
  d_out_ref,
  lse_ref,
  delta_ref,
  dk_ref,
  dv_ref,
  *,
  plan: Plan,
  scale: float,
  width: int,
  exp2,
):
  program = _Program.here(width)
  k, v = (program.load(x, program.block, plan.key) for x in (k_ref, v_ref))

  def visit(query_block, mask, carry):
    dk, dv = carry
    q, d_out = (program.load(x, query_block, plan.query) for x in (q_ref, d_out_ref))
    lse, delta = (program.load(x, query_block, plan.query, statistic=True) for x in (lse_ref, delta_ref))
    scores = _product(k, q.T) * (scale * flash.LOG2_E)  # [bk bq]
    weights = exp2(scores - lse[None, :])
    if mask is not None:
      weights = jnp.where(mask, weights, 0.0)
    d_scores = weights * (_product(v, d_out.T) - delta[None, :])
    dv += _product(weights.astype(d_out.dtype), d_out)
    return dk + _product(d_scores.astype(q.dtype), q), dv

  start = (jnp.zeros(k.shape, jnp.float32),) * 2
  dk, dv = _visit_all(visit, program, plan, blocks, ends, span, start, keys_stream=False)
  program.store(dk_ref, scale * dk, plan.key)
  program.store(dv_ref, dv, plan.key)


def _visit_all(visit, program: _Program, plan: Plan, blocks, ends, span, start: Any, *, keys_stream: bool) -> Any:
  """Folds `visit(block, mask, carry)` over the blocks that the block at hand meets; `mask` is [stay stream]."""
  stay, clip = program.block, program.clip
  bounds = span[clip, 0], span[clip, 1], span[clip, 2]

  def whole(step, carry):
    return visit(blocks[stay, step], None, carry)

  def partial(step, carry):
    streaming = blocks[stay, step]
    query, key = (stay, streaming) if keys_stream else (streaming, stay)
    mask = plan.sees(
      plan.places(plan.query, query, _shape(plan, plan.query, not keys_stream)),
      plan.places(plan.key, key, _shape(plan, plan.key, keys_stream)),
      bounds,
    )
    return visit(streaming, mask, carry)

  carry = jax.lax.fori_loop(0, ends[stay, 0], whole, start)
  return jax.lax.fori_loop(ends[stay, 0], ends[stay, 1], partial, carry)


def _shape(plan: Plan, rows: Rows, streams: bool) -> tuple[int, int] | None:
  """Of the places that a mask compares: along its side of the scores, or one for all rows if they share a frame."""
  if streams:
    return 1, rows.block
  return None if plan.rule.unit == "frame" and rows.length == rows.tokens else (rows.block, 1)


def _exp2(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
  """One instruction, for the four of `jnp.exp2`: results below 2^-126, which it saves, are zero beside a sum's 1."""
  (y,) = plgpu.elementwise_inline_asm(
    "ex2.approx.ftz.f32 $0, $1;",
    args=[x],
    constraints="=f,f",
    pack=1,
    result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, x.dtype)],
  )
  return y


def _product(x: Float[Array, "M K"], y: Float[Array, "K N"]) -> Float[Array, "M N"]:
  """Summed in float32; float32 operands keep all their digits, in six products of bfloat16 on tensor cores."""
  exact = x.dtype == jnp.float32
  precision = jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6 if exact else None
  return jnp.dot(x, y, precision=precision, preferred_element_type=jnp.float32)
