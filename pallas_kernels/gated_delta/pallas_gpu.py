"""Gated delta rule on a GPU, by Triton: what needs no state for all chunks at once, then a walk over the chunks.

A program of a walk keeps in registers the state of one head and `Tiles.columns` of its columns, which never meet the
other columns. The backward pass walks forward once more and keeps the state at every chunk, walks back with the
state's gradient, keeps it too, and then takes all chunks at once.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from pallas_kernels import tiles as tiles_table
from pallas_kernels.dispatch import Unsupported
from pallas_kernels.gated_delta import chunk

CHUNK = 64
BLOCK = 16  # the smallest product of a tensor core
ROWS = 8  # eliminated one by one; more of them cost barriers, fewer cost products
# float32 in six products of bfloat16, on tensor cores; those of float32 itself are thousands of multiply-adds a thread.
EXACT = jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6
# Shared memory of a block of threads, by compute capability; other GPUs since Ampere have the least of these.
ON_CHIP_BYTES = {"8.0": 163 << 10, "9.0": 227 << 10, "10.0": 227 << 10}
LEAST_ON_CHIP_BYTES = 99 << 10


@dataclasses.dataclass(frozen=True)
class Tiles:
  """What one program takes.

  Attributes:
    columns: of the state, where a program walks; more of them share the reads of q and k, and fill more registers.
    rows: of the state, where all chunks are taken at once.
    warps: of a walk.
    stages: chunks in shared memory at once; with one, their loads are waited for and pass through registers.
  """

  columns: int = 64
  rows: int = 64
  warps: int = 8
  stages: int = 2


def gated_delta(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H"],
  beta: Float[Array, "B T H"],
  state: Float[Array, "B H K V"] | None = None,
  *,
  tiles: Tiles | None = None,
  interpret: bool = False,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Same contract as `api.gated_delta`; matrix products take their operands in the dtype of `v`.

  Args:
    tiles: None: as tuned for the device, or the first of `candidates`.
    interpret: run in Pallas' interpreter instead of on a GPU.

  Raises:
    Unsupported: K is no power of two from 16 to 256, V none from 16, `v` neither float32 nor bfloat16, or no tiles fit
      into the GPU's shared memory.
  """
  batch, tokens, heads, key_dim = k.shape
  value_dim = v.shape[-1]
  if not BLOCK <= key_dim <= 256 or key_dim & (key_dim - 1):
    raise Unsupported(f"gated_delta: K is {key_dim}; allowed: powers of two from {BLOCK} to 256")
  if value_dim < BLOCK or value_dim & (value_dim - 1):
    raise Unsupported(f"gated_delta: V is {value_dim}; allowed: powers of two from {BLOCK}")
  if v.dtype not in (jnp.float32, jnp.bfloat16):
    raise Unsupported(f"gated_delta: dtype is {v.dtype}; allowed: float32, bfloat16")

  def gates(x):  # padding has log_decay = beta = 0: it neither forgets nor writes
    x = jnp.pad(x.astype(jnp.float32), ((0, 0), (0, -tokens % CHUNK), (0, 0)))
    return rearrange(x, "b (n c) h -> b h n c", c=CHUNK)

  if state is None:
    state = jnp.zeros((batch, heads, key_dim, value_dim), jnp.float32)
  q, k = q.astype(v.dtype), k.astype(v.dtype)
  tiles = tiles or _pick_tiles(heads, key_dim, value_dim, v.dtype)
  return _rule(tiles, interpret, q, k, v, gates(log_decay), gates(beta), state.astype(jnp.float32))


def on_chip_bytes(tiles: Tiles, key_dim: int, value_dim: int, dtype) -> int:
  """Shared memory of a walk back, which takes the most.

  The chunks' q, k, P, A^-1, d_reads and gates, and the operands made of the state and of what is written to it.
  """
  columns, itemsize = min(tiles.columns, value_dim), jnp.dtype(dtype).itemsize
  chunks = tiles.stages * (itemsize * CHUNK * (2 * key_dim + 2 * CHUNK + columns) + 3 * 4 * CHUNK)
  return chunks + itemsize * (CHUNK + key_dim) * columns


def candidates(heads: int, key_dim: int, value_dim: int, dtype) -> list[Tiles]:
  """Tiles whose operands fit into shared memory, and the state itself into half of the registers.

  Of the present GPU; of an H100 where there is none, as when compiling for one.
  """
  del heads  # each has programs of its own
  limit = ON_CHIP_BYTES.get(getattr(jax.devices()[0], "compute_capability", "9.0"), LEAST_ON_CHIP_BYTES)
  tilings = [
    Tiles(columns, 64, warps, stages) for stages in (2, 1) for columns in (64, 32, 128, 16) for warps in (8, 4)
  ]
  return [
    tiles
    for tiles in tilings
    if on_chip_bytes(tiles, key_dim, value_dim, dtype) <= limit
    and 4 * key_dim * tiles.columns <= 128 * 4 * 32 * tiles.warps
  ]


def tile_key(key_dim: int, value_dim: int, dtype) -> str:
  """In `tiles.json`."""
  return f"K{key_dim}-V{value_dim}-{jnp.dtype(dtype).name}"


def _pick_tiles(heads: int, key_dim: int, value_dim: int, dtype) -> Tiles:
  tuned = tiles_table.lookup("gated_delta", tiles_table.target_kind(), tile_key(key_dim, value_dim, dtype))
  fits = [Tiles(**tuned)] if tuned else candidates(heads, key_dim, value_dim, dtype)
  if not fits:
    raise Unsupported(f"gated_delta: K is {key_dim} in {jnp.dtype(dtype).name}; allowed: what fits into shared memory")
  return fits[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rule(tiles, interpret, q, k, v, log_decay, beta, state):
  """Gates are [B H N C]."""
  outputs, _ = _rule_forward(tiles, interpret, q, k, v, log_decay, beta, state)
  return outputs


def _rule_forward(tiles, interpret, q, k, v, log_decay, beta, state):
  call, cum_log_decay = _Calls(tiles, interpret, q, v, beta), chunk.cum_log_decay(log_decay)
  scores, inverses = call.prepare(q, k, cum_log_decay, beta)
  inputs = (q, k, v, cum_log_decay, beta, scores, inverses, state)
  return call.walk(*inputs, keep=False), inputs


def _rule_backward(tiles, interpret, residuals, cotangents):
  q, k, v, cum_log_decay, beta, scores, inverses, _ = residuals
  d_reads, d_final = cotangents
  call = _Calls(tiles, interpret, q, v, beta)
  *_, states, errors, corrections = call.walk(*residuals, keep=True)
  d_targets, d_states, d_state = call.walk_back(q, k, cum_log_decay, beta, scores, inverses, d_reads, d_final)
  d_q, d_k, read, kept, d_beta = call.gradients(
    q, k, cum_log_decay, beta, states, corrections, d_reads, d_targets, d_states
  )
  # The rest needs no product: v and the errors stand alone in beta (v - ...).
  d_v = rearrange(beta[..., None] * d_targets, "b h n c v -> b (n c) h v")[:, : q.shape[1]].astype(v.dtype)
  d_beta = d_beta.sum(0) + jnp.sum(d_targets.astype(jnp.float32) * errors.astype(jnp.float32), axis=-1)
  return d_q, d_k, d_v, chunk.to_log_decay(read.sum(0), kept.sum(0)), d_beta, d_state


_rule.defvjp(_rule_forward, _rule_backward)


class _Calls:
  """The kernels, for one shape. What only they exchange is [B H N ...], without a ragged end.

  The grid is (block of the state's rows or columns, chunk, batch x head).
  """

  def __init__(self, tiles: Tiles, interpret: bool, q, v, beta):
    _, self._tokens, self._heads, self._key_dim = q.shape
    self._value_dim, self._dtype, self._gates, self._interpret = v.shape[-1], v.dtype, beta.shape, interpret
    self._rows, self._columns = min(tiles.rows, self._key_dim), min(tiles.columns, self._value_dim)
    self._walk = {"warps": tiles.warps, "stages": tiles.stages}

  def prepare(self, q, k, cum_log_decay, beta):
    """P and A^-1 of every chunk."""
    keys, gates, square = self._by_token(self._key_dim), self._by_chunk(CHUNK), self._by_chunk(CHUNK, CHUNK)
    call = self._call(
      _prepare_kernel,
      (1, self._gates[2]),
      [keys, keys, chunk.CumLogDecay(gates, gates), gates],
      [square, square],
      [self._like(CHUNK, CHUNK)] * 2,
      warps=4,
    )
    return call(q, k, cum_log_decay, beta)

  def walk(self, q, k, v, cum_log_decay, beta, scores, inverses, state, *, keep: bool):
    """Reads and final state; with `keep` also the state, the errors e and the corrections u of every chunk."""
    keys, gates, square = self._by_token(self._key_dim), self._by_chunk(CHUNK), self._by_chunk(CHUNK, CHUNK)
    values, whole = self._by_token(self._columns, blocked=True), self._state()
    rows = self._by_chunk(CHUNK, self._columns, blocked=True)
    every = self._by_chunk(self._key_dim, self._columns, blocked=True)
    kept = [self._like(self._key_dim, self._value_dim), *[self._like(CHUNK, self._value_dim)] * 2]
    call = self._call(
      _walk_kernel,
      (self._value_dim // self._columns, 1),
      [keys, keys, values, chunk.CumLogDecay(gates, gates), gates, square, square, whole],
      [values, whole] + [every, rows, rows] * keep,
      [jax.ShapeDtypeStruct(v.shape, v.dtype), jax.ShapeDtypeStruct(state.shape, jnp.float32)] + kept * keep,
      **self._walk,
    )
    return call(q, k, v, cum_log_decay, beta, scores, inverses, state)

  def walk_back(self, q, k, cum_log_decay, beta, scores, inverses, d_reads, d_final):
    """Gradients to beta e, to the state after every chunk, and to the state at the start."""
    keys, gates, square = self._by_token(self._key_dim), self._by_chunk(CHUNK), self._by_chunk(CHUNK, CHUNK)
    values, rows = self._by_token(self._columns, blocked=True), self._by_chunk(CHUNK, self._columns, blocked=True)
    whole, every = self._state(), self._by_chunk(self._key_dim, self._columns, blocked=True)
    call = self._call(
      _walk_back_kernel,
      (self._value_dim // self._columns, 1),
      [keys, keys, chunk.CumLogDecay(gates, gates), gates, square, square, values, whole],
      [rows, every, whole],
      [
        self._like(CHUNK, self._value_dim),
        self._like(self._key_dim, self._value_dim),
        jax.ShapeDtypeStruct(d_final.shape, jnp.float32),
      ],
      **self._walk,
    )
    return call(q, k, cum_log_decay, beta, scores, inverses, d_reads, d_final)

  def gradients(self, q, k, cum_log_decay, beta, states, corrections, d_reads, d_targets, d_states):
    """To q, k, accumulated log-decay (two, see `chunk.Gradients`) and beta.

    The gates' come in parts, one from each block of rows of the state.

    That to beta lacks what comes through the errors.
    """
    keys, gates = self._by_token(self._rows, blocked=True), self._by_chunk(CHUNK)
    values = self._by_chunk(CHUNK, self._value_dim)
    every = pl.BlockSpec(
      (None, None, self._gates[2], self._rows, self._value_dim), lambda j, n, g: (*self._at(g), 0, j, 0)
    )
    part = pl.BlockSpec((None, None, None, *self._gates[2:]), lambda j, n, g: (j, *self._at(g), 0, 0))
    blocks = self._key_dim // self._rows
    parts = jax.ShapeDtypeStruct((blocks, *self._gates), jnp.float32)
    call = self._call(
      functools.partial(_gradients_kernel, width=self._columns),
      (blocks, self._gates[2]),
      [
        keys,
        keys,
        chunk.CumLogDecay(gates, gates),
        gates,
        every,
        values,
        self._by_token(self._value_dim),
        values,
        every,
      ],
      [keys, keys, part, part, part],
      [jax.ShapeDtypeStruct(q.shape, q.dtype)] * 2 + [parts] * 3,
      warps=4,
      stages=2,
    )
    return call(q, k, cum_log_decay, beta, states, corrections, d_reads, d_targets, d_states)

  def _call(self, kernel, grid, in_specs, out_specs, out_shape, *, warps: int, stages: int = 1):
    return pl.pallas_call(
      kernel,
      grid=(*grid, self._gates[0] * self._heads),
      in_specs=in_specs,
      out_specs=out_specs,
      out_shape=out_shape,
      compiler_params=plgpu.CompilerParams(num_warps=warps, num_stages=stages),
      interpret=self._interpret,
      name="gated_delta" + getattr(kernel, "func", kernel).__name__.removesuffix("_kernel"),
    )

  def _like(self, *shape):
    return jax.ShapeDtypeStruct((*self._gates[:3], *shape), self._dtype)

  def _at(self, g):
    return g // self._heads, g % self._heads

  def _by_token(self, width: int, blocked: bool = False):
    """All tokens of one head; of its columns a block, or all."""
    return pl.BlockSpec(
      (None, self._tokens, None, width), lambda j, n, g: (g // self._heads, 0, g % self._heads, j if blocked else 0)
    )

  def _by_chunk(self, *shape: int, blocked: bool = False):
    """All chunks of one head; of the last axis a block, or all."""
    block = (None, None, self._gates[2], *shape)
    return pl.BlockSpec(block, lambda j, n, g: (*self._at(g), *(0,) * len(shape), j if blocked else 0))

  def _state(self):
    return pl.BlockSpec((None, None, self._key_dim, self._columns), lambda j, n, g: (*self._at(g), 0, j))


def _prepare_kernel(q, k, cum_log_decay, beta, scores, inverses):
  n = pl.program_id(1)
  q, k = _take(q, n), _take(k, n)
  gates, write = _gates(cum_log_decay, beta, n)
  _, nt, _ = _products(k.dtype)
  scores[n] = (nt(q, k) * gates.between).astype(scores.dtype)
  inverses[n] = _inverse(write * chunk.answers(k, gates, EXACT), k.dtype).astype(inverses.dtype)


def _walk_kernel(q, k, v, cum_log_decay, beta, scores, inverses, state, reads, final, *kept):
  nn, *_ = _products(v.dtype)

  def body(n, state):
    q_n, k_n = _take(q, n), _take(k, n)
    gates, write = _gates(cum_log_decay, beta, n)
    errors = _take(v, n).astype(jnp.float32) - gates.start * nn(k_n, state)
    corrections = nn(inverses[n], write * errors)
    _put(reads, n, gates.start * nn(q_n, state) + nn(scores[n], corrections))
    for ref, value in zip(kept, (state, errors, corrections), strict=bool(kept)):
      ref[n] = value.astype(ref.dtype)
    return chunk.write(k_n, corrections, gates, state, EXACT)

  final[...] = jax.lax.fori_loop(0, beta.shape[0], body, state[...])


def _walk_back_kernel(
  q, k, cum_log_decay, beta, scores, inverses, d_reads, d_final, d_targets, d_states, d_state
):  # fmt: skip
  nn, _, tn = _products(q.dtype)

  def body(i, d_state):
    n = beta.shape[0] - 1 - i
    q_n, k_n, d_read = _take(q, n), _take(k, n), _take(d_reads, n)
    gates, write = _gates(cum_log_decay, beta, n)
    d_states[n] = d_state.astype(d_states.dtype)
    d_target = tn(inverses[n], tn(scores[n], d_read) + gates.end * nn(k_n, d_state))
    d_targets[n] = d_target.astype(d_targets.dtype)
    return (
      gates.whole * d_state
      + tn(q_n, gates.start * d_read.astype(jnp.float32))
      - tn(k_n, gates.start * write * d_target)
    )

  d_state[...] = jax.lax.fori_loop(0, beta.shape[0], body, d_final[...])


def _gradients_kernel(
  q, k, cum_log_decay, beta, states, corrections, d_reads, d_targets, d_states, d_q, d_k, read, kept, d_beta, *, width
):  # fmt: skip
  n = pl.program_id(1)
  nn, nt, tn = _products(q.dtype)
  keys = q.shape[1]
  square, thin = jnp.zeros((CHUNK, CHUNK), jnp.float32), jnp.zeros((CHUNK, keys), jnp.float32)

  def body(j, sums):
    from_q, from_k, from_end, d_scores, d_system, inner = sums
    columns = pl.ds(j * width, width)
    state, d_state = states[n, :, columns], d_states[n, :, columns]
    correction, d_target, d_read = corrections[n, :, columns], d_targets[n, :, columns], _take(d_reads, n, columns)
    return (
      from_q + nt(d_read, state),
      from_k + nt(d_target, state),
      from_end + nt(correction, d_state),
      d_scores + nt(d_read, correction),
      d_system + nt(d_target, correction),
      inner + jnp.sum(state.astype(jnp.float32) * d_state.astype(jnp.float32), axis=1),
    )

  zeros = (thin, thin, thin, square, square, jnp.zeros(keys, jnp.float32))
  count = states.shape[2] // width
  from_q, from_k, from_end, d_scores, d_system, inner = jax.lax.fori_loop(0, count, body, zeros)

  q, k = _take(q, n), _take(k, n)
  gates, write = _gates(cum_log_decay, beta, n)
  (d_own, d_scores), d_answer = chunk.apart(d_scores * gates.between), chunk.strictly_lower(d_system * gates.between)
  # k enters as the token that reads and as the one that is read, see `chunk.backward`.
  answered = nn(d_answer, k)
  d_query = gates.start * from_q + nn(d_scores, k)
  d_left = -write * (gates.start * from_k + answered)
  d_end = gates.end * from_end
  d_right = tn(d_scores, q) - tn(write * d_answer, k)
  q, k = q.astype(jnp.float32), k.astype(jnp.float32)
  _put(d_q, n, d_query + d_own * k)
  _put(d_k, n, d_left + d_right + d_end + d_own * q)

  d_beta[n] = -jnp.sum(k * answered, axis=1)
  last = jnp.arange(CHUNK) == CHUNK - 1
  whole = jnp.exp(cum_log_decay.coarse[n, CHUNK - 1] + cum_log_decay.fine[n, CHUNK - 1])
  read[n] = jnp.sum(q * d_query + k * (d_left - d_right), axis=1) + jnp.where(last, whole * jnp.sum(inner), 0.0)
  kept[n] = jnp.sum(k * d_end, axis=1)


def _products(dtype):
  return chunk.products(dtype, EXACT)


def _take(ref, n, columns=slice(None)):
  """A chunk of [T D]; zeros after the last token."""
  part = ref.at[pl.ds(n * CHUNK, CHUNK), columns]
  inside = _inside(ref, n, part.shape)
  return plgpu.load(part, mask=inside, other=None if inside is None else 0.0)


def _put(ref, n, value):
  plgpu.store(ref.at[pl.ds(n * CHUNK, CHUNK), :], value.astype(ref.dtype), mask=_inside(ref, n, value.shape))


def _inside(ref, n, shape):
  """Which rows of a chunk are tokens, or None if all are."""
  if ref.shape[0] % CHUNK == 0:
    return None
  return jnp.broadcast_to((n * CHUNK + jnp.arange(CHUNK) < ref.shape[0])[:, None], shape)


def _gates(cum_log_decay, beta, n):
  rows = jax.tree.map(lambda ref: ref[n][None, :], cum_log_decay)
  columns = jax.tree.map(lambda ref: ref[n][:, None], cum_log_decay)
  last = jax.tree.map(lambda ref: jnp.full((1, 1), ref[n, CHUNK - 1]), cum_log_decay)
  return chunk.decay(columns, rows, last), beta[n][:, None]


def _inverse(strict, dtype):
  """(I + strict)^-1: blocks on the diagonal row by row, all at once, then of twice the size by block inversion."""
  # What is rounded to bfloat16 in the end needs 16 bits on the way, and those are had from tensor cores.
  precision = EXACT if dtype == jnp.float32 else jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X3
  count = CHUNK // ROWS
  along = lambda axis: jax.lax.broadcasted_iota(jnp.int32, (count, ROWS, count, ROWS), axis)  # noqa: E731
  inside = along(0) == along(2)
  blocks = jnp.sum(jnp.where(inside, strict.reshape(inside.shape), 0.0), axis=2)
  i, j = (jax.lax.broadcasted_iota(jnp.int32, blocks.shape, axis) for axis in (1, 2))
  inverses = jnp.where(i == j, 1.0, 0.0)
  for n in range(ROWS - 1):
    factor = jnp.sum(jnp.where(j == n, blocks, 0.0), axis=2, keepdims=True)
    pivot = jnp.sum(jnp.where(i == n, inverses, 0.0), axis=1, keepdims=True)
    inverses -= factor * pivot
  inverse = jnp.where(inside, inverses[:, :, None], 0.0).reshape(CHUNK, CHUNK)

  i, j = chunk.indices(CHUNK)
  apart = i ^ j  # below 2^n if both lie in the same block of 2^n
  size = ROWS
  while size < CHUNK:
    corner = jnp.where((apart >= size) & (apart < 2 * size), strict, 0.0)
    inverse -= jnp.dot(inverse, jnp.dot(corner, inverse, precision=precision), precision=precision)
    size *= 2
  return inverse
