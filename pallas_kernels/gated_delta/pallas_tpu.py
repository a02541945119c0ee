"""Gated delta rule on a TPU: one kernel walks the tokens forward with the state in VMEM, one walks them back.

A step of the grid is a segment of chunks of a few heads. The heads are a batch axis of each operation, so that their
chains of small products interleave: one head after the other, the compiler's schedule is a tenth (v5e) to a quarter
(v6e) longer, for it does not move work that far. The forward kernel keeps the state at the start of each
segment; the backward kernel takes the segments last to first, recomputes the states inside one, and goes back over
its chunks. Neither forms anything in HBM but inputs, outputs and one state per segment.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from pallas_kernels import tiles as tiles_table
from pallas_kernels.dispatch import Unsupported
from pallas_kernels.gated_delta import chunk

LANES = 128
VMEM_BYTES = 48 << 20  # of the 64 MiB that every supported chip has at least


@dataclasses.dataclass(frozen=True)
class Tiles:
  """What one step of the grid takes.

  Attributes:
    chunk: tokens that are solved for at once; a power of two.
    heads: heads side by side, whose chains of small products fill each other's gaps; divides the number of heads.
    segment: chunks; a state is kept for the backward pass once per segment.
  """

  chunk: int = 128
  heads: int = 2
  segment: int = 4


def gated_delta(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H"],
  beta: Float[Array, "B T H"],
  state: Float[Array, "B H K V"] | None = None,
  *,
  tiles: Tiles | None = None,
  interpret: bool | pltpu.InterpretParams = False,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Same contract as `api.gated_delta`; matrix products take their operands in the dtype of `v`.

  Args:
    tiles: None: as tuned for the device, or the most heads whose tiles fit into VMEM.
    interpret: run in Pallas' interpreter instead of on a TPU.

  Raises:
    Unsupported: K or V is no multiple of 128, or `v` neither float32 nor bfloat16.
  """
  batch, tokens, heads, key_dim = k.shape
  value_dim = v.shape[-1]
  if key_dim % LANES or value_dim % LANES:
    raise Unsupported(f"gated_delta: K, V are {key_dim}, {value_dim}; allowed: multiples of {LANES}")
  if v.dtype not in (jnp.float32, jnp.bfloat16):
    raise Unsupported(f"gated_delta: dtype is {v.dtype}; allowed: float32, bfloat16")
  tiles = tiles or _pick_tiles(heads, key_dim, value_dim, v.dtype)
  chunks = math.ceil(tokens / tiles.chunk)
  segments = math.ceil(chunks / tiles.segment)
  tiles = dataclasses.replace(tiles, segment=math.ceil(chunks / segments))

  def gates(x):  # padding has log_decay = beta = 0: it neither forgets nor writes
    x = jnp.pad(x.astype(jnp.float32), ((0, 0), (0, -tokens % (segments * tiles.segment * tiles.chunk)), (0, 0)))
    return rearrange(x, "b (s n c) h -> b h s n c", s=segments, c=tiles.chunk)

  flat = (rearrange(x.astype(v.dtype), "b t h d -> b t (h d)") for x in (q, k, v))
  if state is None:
    state = jnp.zeros((batch, heads, key_dim, value_dim), jnp.float32)
  run = functools.partial(_walk, tiles, interpret)
  reads, state = run(*flat, gates(log_decay), gates(beta), state.astype(jnp.float32))
  return rearrange(reads, "b t (h d) -> b t h d", h=heads), state


def on_chip_bytes(tiles: Tiles, key_dim: int, value_dim: int, dtype) -> int:
  """VMEM of the backward kernel, the larger of the two: blocks twice, for they are fetched ahead, and scratch."""
  tokens, size = tiles.segment * tiles.chunk, jnp.dtype(dtype).itemsize
  state = 4 * key_dim * value_dim
  blocks = tokens * (4 * key_dim + 3 * value_dim) * size + 3 * state + 6 * 4 * tokens
  scratch = (tiles.segment + 2) * state + 4 * tokens * (max(tiles.chunk, LANES) + value_dim)
  working = 4 * tiles.chunk * (8 * tiles.chunk + 8 * key_dim + 8 * value_dim) + 3 * state
  return tiles.heads * (2 * blocks + scratch + working)


def candidates(heads: int, key_dim: int, value_dim: int, dtype) -> list[Tiles]:
  """Tiles that fit into VMEM, the likeliest first."""
  tilings = [Tiles(chunk, n, 512 // chunk) for chunk in (128, 64) for n in (2, 4, 1) if heads % n == 0]
  tilings += [Tiles(chunk, 1, 1) for chunk in (128, 64)]
  return [tiles for tiles in tilings if on_chip_bytes(tiles, key_dim, value_dim, dtype) <= VMEM_BYTES]


def tile_key(key_dim: int, value_dim: int, dtype) -> str:
  """In `tiles.json`."""
  return f"K{key_dim}-V{value_dim}-{jnp.dtype(dtype).name}"


def _pick_tiles(heads: int, key_dim: int, value_dim: int, dtype) -> Tiles:
  """As tuned, else the first that fits.

  Raises:
    Unsupported: none does.
  """
  tuned = tiles_table.lookup("gated_delta", tiles_table.target_kind(), tile_key(key_dim, value_dim, dtype))
  if tuned and heads % tuned["heads"] == 0:
    return Tiles(**tuned)
  fitting = candidates(heads, key_dim, value_dim, dtype)
  if not fitting:
    raise Unsupported(f"gated_delta: K x V is {key_dim} x {value_dim}; allowed: what fits into {VMEM_BYTES >> 20} MiB")
  return fitting[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _walk(tiles, interpret, q, k, v, log_decay, beta, state):
  """q, k [B T H*K], v [B T H*V], gates [B H segments chunks C] -> reads, final state."""
  return _forward(tiles, interpret, q, k, v, log_decay, beta, state, keep=False)


def _walk_forward(tiles, interpret, *inputs):
  reads, final, starts = _forward(tiles, interpret, *inputs, keep=True)
  return (reads, final), (*inputs[:5], starts)


def _forward(tiles, interpret, q, k, v, log_decay, beta, state, *, keep: bool):
  block = _Blocks(tiles, q.shape, state.shape, beta.shape[2])
  keys, values, gates, whole = block.keys(), block.values(), block.gates(), block.state()
  return pl.pallas_call(
    functools.partial(_forward_kernel, tokens=q.shape[1]),
    grid=block.grid,
    in_specs=[keys, keys, values, chunk.CumLogDecay(gates, gates), gates, whole],
    out_specs=[values, whole] + [block.starts()] * keep,
    out_shape=[jax.ShapeDtypeStruct(v.shape, v.dtype), jax.ShapeDtypeStruct(state.shape, jnp.float32)]
    + [jax.ShapeDtypeStruct((*state.shape[:2], block.segments, *state.shape[2:]), jnp.float32)] * keep,
    scratch_shapes=[pltpu.VMEM((tiles.heads, *state.shape[2:]), jnp.float32)],
    compiler_params=block.params,
    interpret=interpret,
    name="gated_delta_forward",
  )(q, k, v, chunk.cum_log_decay(log_decay), beta, state)


def _walk_backward(tiles, interpret, residuals, cotangents):
  q, k, v, log_decay, beta, starts = residuals
  d_reads, d_final = cotangents
  block = _Blocks(tiles, q.shape, d_final.shape, beta.shape[2], reverse=True)
  keys, values, gates, whole = block.keys(), block.values(), block.gates(), block.state()
  like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)  # noqa: E731
  heads, count, size = tiles.heads, tiles.segment, tiles.chunk
  d_q, d_k, d_v, read, kept, d_beta, d_state = pl.pallas_call(
    functools.partial(_backward_kernel, tokens=q.shape[1]),
    grid=block.grid,
    in_specs=[keys, keys, values, chunk.CumLogDecay(gates, gates), gates, block.starts(), values, whole],
    out_specs=[keys, keys, values, gates, gates, gates, whole],
    out_shape=[like(x) for x in (q, k, v, beta, beta, beta, d_final)],
    scratch_shapes=[
      pltpu.VMEM((heads, *d_final.shape[2:]), jnp.float32),
      pltpu.VMEM((count + 1, heads, *d_final.shape[2:]), jnp.float32),
      pltpu.VMEM((count, heads, size, size), jnp.float32),
      pltpu.VMEM((count, heads, size, starts.shape[-1]), jnp.float32),
    ],
    compiler_params=block.params,
    interpret=interpret,
    name="gated_delta_backward",
  )(q, k, v, chunk.cum_log_decay(log_decay), beta, starts, d_reads, d_final)
  return d_q, d_k, d_v, chunk.to_log_decay(read, kept), d_beta, d_state


_walk.defvjp(_walk_forward, _walk_backward)


class _Blocks:
  """Grid (batch, group of heads, segment) and the blocks that a step of it sees."""

  def __init__(self, tiles: Tiles, keys_shape, state_shape, segments: int, reverse: bool = False):
    self._tiles, (_, heads, self._key_dim, self._value_dim) = tiles, state_shape
    self.segments = segments
    self.grid = (keys_shape[0], heads // tiles.heads, segments)
    self.params = pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
    )
    self._segment = (lambda s: segments - 1 - s) if reverse else (lambda s: s)

  def keys(self):
    return self._tokens(self._key_dim)

  def values(self):
    return self._tokens(self._value_dim)

  def _tokens(self, width: int):
    shape = (1, self._tiles.segment * self._tiles.chunk, self._tiles.heads * width)
    return pl.BlockSpec(shape, lambda b, h, s: (b, self._segment(s), h))

  def gates(self):
    shape = (1, self._tiles.heads, 1, self._tiles.segment, self._tiles.chunk)
    return pl.BlockSpec(shape, lambda b, h, s: (b, h, self._segment(s), 0, 0))

  def state(self):
    return pl.BlockSpec((1, self._tiles.heads, self._key_dim, self._value_dim), lambda b, h, s: (b, h, 0, 0))

  def starts(self):
    shape = (1, self._tiles.heads, 1, self._key_dim, self._value_dim)
    return pl.BlockSpec(shape, lambda b, h, s: (b, h, self._segment(s), 0, 0))


def _forward_kernel(q, k, v, cum_log_decay, beta, initial, reads, final, *rest, tokens):
  *starts, state = rest
  step = pl.program_id(2)
  heads, key_dim, value_dim = state.shape
  _, _, _, count, size = beta.shape

  @pl.when(step == 0)
  def begin():
    state[...] = initial[0]

  for kept in starts:
    kept[0, :, 0] = state[...]

  def body(n, _):
    take, put = _chunk(step, n, size, count, heads, tokens)
    read, state[...] = jax.vmap(chunk.forward)(
      take(q, key_dim), take(k, key_dim), take(v, value_dim), *_gates(cum_log_decay, beta, n), state[...]
    )
    put(reads, read)

  jax.lax.fori_loop(0, count, body, None)

  @pl.when(step == pl.num_programs(2) - 1)
  def finish():
    final[0] = state[...]


def _backward_kernel(
  q, k, v, cum_log_decay, beta, starts, d_reads, d_final, d_q, d_k, d_v, read, kept, d_beta, d_initial,
  d_state, states, factors, errors, *, tokens
):  # fmt: skip
  step, segments = pl.program_id(2), pl.num_programs(2)
  heads, key_dim, value_dim = d_state.shape
  count, _, size, _ = errors.shape

  @pl.when(step == 0)
  def begin():
    d_state[...] = d_final[0]

  states[0] = starts[0, :, 0]

  def recompute(n, _):
    take, _ = _chunk(segments - 1 - step, n, size, count, heads, tokens)
    factors[n], errors[n], states[n + 1] = jax.vmap(chunk.recompute)(
      take(k, key_dim), take(v, value_dim), *_gates(cum_log_decay, beta, n), states[n]
    )

  jax.lax.fori_loop(0, count, recompute, None)

  def back(i, _):
    n = count - 1 - i
    take, put = _chunk(segments - 1 - step, n, size, count, heads, tokens)
    grads = jax.vmap(chunk.backward)(
      take(q, key_dim), take(k, key_dim), *_gates(cum_log_decay, beta, n), states[n], factors[n], errors[n],
      take(d_reads, value_dim), d_state[...],
    )  # fmt: skip
    for ref, value in zip((d_q, d_k, d_v), grads[:3], strict=True):
      put(ref, value)
    for ref, value in ((read, grads.read), (kept, grads.kept), (d_beta, grads.beta)):
      ref[0, :, 0, pl.ds(n, 1)] = jax.vmap(chunk.row)(value)
    d_state[...] = grads.state

  jax.lax.fori_loop(0, count, back, None)

  @pl.when(step == segments - 1)
  def finish():
    d_initial[0] = d_state[...]


def _chunk(segment, n, size: int, count: int, heads: int, tokens: int):
  """How to take a chunk of a segment from [1 rows heads*D], as [heads C D], and to put one there.

  What lies after the last token is undefined, and is taken as zero.
  """
  rows = pl.ds(pl.multiple_of(n * size, size), size)
  first = (segment * count + n) * size

  def take(ref, width: int):
    x = jnp.stack([ref[0, rows, h * width : (h + 1) * width] for h in range(heads)])
    if tokens % (count * size) == 0:
      return x
    index = first + jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    return jnp.where(index < tokens, x, jnp.zeros_like(x))

  def put(ref, x):
    for h in range(heads):
      ref[0, rows, h * x.shape[2] : (h + 1) * x.shape[2]] = x[h].astype(ref.dtype)

  return take, put


def _gates(cum_log_decay, beta, n):
  """Of a chunk of all heads: decays, and beta in columns."""
  rows = jax.tree.map(lambda ref: ref[0, :, 0, pl.ds(n, 1)], cum_log_decay)
  columns = jax.vmap(chunk.column)
  last = jax.tree.map(lambda x: x[..., -1:], rows)
  return jax.vmap(chunk.decay)(jax.tree.map(columns, rows), rows, last), columns(beta[0, :, 0, pl.ds(n, 1)])
