"""One chunk of one head, forward and backward, as products of whole matrices: the arithmetic that the kernels share.

With G the decay since the chunk began, D_ij = G_i / G_j for i >= j, and S the state at its start:

    A = I + tril(beta_i k_i.k_j D_ij, -1)    P = tril(q_i.k_j D_ij)
    e = v - G k S                            what the state gets wrong, before this chunk's own corrections
    u = A^-1 (beta e)                        corrections
    o = G q S + P u                          reads
    S' = G_C S + (G_C/G k)^T u

Source: Gated DeltaNet (arXiv 2412.06464), section 3.3.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Rows that are eliminated one by one; between blocks of so many, matrix products.
BLOCK = 16


class Decay(NamedTuple):
  """Decays inside a chunk: from its start to token i, from i to its end, over all of it, and from token j to i >= j."""

  start: Float[Array, "C 1"]
  end: Float[Array, "C 1"]
  whole: Float[Array, "1 1"]
  between: Float[Array, "C C"]


class Gradients(NamedTuple):
  """Of one chunk.

  Attributes:
    read: of the accumulated log-decays, as far as they scale what the chunk's tokens read, and all that they scale of
      the state at its start.
    kept: what each token's write counts for after the chunk; see `to_log_decay` for both.
  """

  q: Float[Array, "C K"]
  k: Float[Array, "C K"]
  v: Float[Array, "C V"]
  read: Float[Array, "C 1"]
  kept: Float[Array, "C 1"]
  beta: Float[Array, "C 1"]
  state: Float[Array, "K V"]


def products(
  dtype, exact: jax.lax.PrecisionLike = jax.lax.Precision.HIGHEST
) -> tuple[Callable[..., Array], Callable[..., Array], Callable[..., Array]]:
  """Matrix products a b, a b^T and a^T b with operands in `dtype`, accumulated in float32.

  float32 operands are multiplied as `exact` says: as float32, which a TPU does in six passes of bfloat16.
  """
  precision = exact if dtype == jnp.float32 else jax.lax.Precision.DEFAULT

  def product(contract_a, contract_b):
    dims = (((contract_a,), (contract_b,)), ((), ()))
    return lambda a, b: jax.lax.dot_general(
      a.astype(dtype), b.astype(dtype), dims, precision=precision, preferred_element_type=jnp.float32
    )

  return product(1, 0), product(1, 1), product(0, 0)


def indices(size: int) -> tuple[Array, Array]:
  """Row and column index of each element of a square matrix."""
  return tuple(jax.lax.broadcasted_iota(jnp.int32, (size, size), axis) for axis in (0, 1))


def column(row: Float[Array, "1 C"]) -> Float[Array, "C 1"]:
  """Turns a row, without a transpose: a sum over one element and zeros is exact."""
  i, j = indices(row.shape[1])
  return jnp.sum(jnp.where(i == j, row, 0.0), axis=1, keepdims=True)


def row(column: Float[Array, "C 1"]) -> Float[Array, "1 C"]:
  """Inverse of `column`."""
  i, j = indices(column.shape[0])
  return jnp.sum(jnp.where(i == j, column, 0.0), axis=0, keepdims=True)


class CumLogDecay(NamedTuple):
  """Log-decays accumulated since the start of a chunk, as the sum of two numbers.

  One float32 holds a sum of 1,000 to 6e-5 only, and the decay between two neighbors late in a chunk is the exponential
  of a difference of two such sums. So each log-decay is cut into a multiple of `STEP`, whose sums and differences are
  exact, and a rest of at most half of it, whose sums stay small. A difference is then as exact as the sum of the
  log-decays between the two tokens.
  """

  coarse: Float[Array, "..."]
  fine: Float[Array, "..."]

  def since(self, earlier: "CumLogDecay") -> Float[Array, "..."]:
    """The log-decay from there to here."""
    return (self.coarse - earlier.coarse) + (self.fine - earlier.fine)

  def total(self) -> Float[Array, "..."]:
    """The log-decay since the start of the chunk."""
    return self.coarse + self.fine


# NOTE: sums of 1,024 log-decays that are no lower than FLOOR need 17 bits before the point and STEP 7 after it: all of
# float32's 24.
STEP = 2.0**-7
FLOOR = -128.0  # exp(-104) is 0 in float32


def cum_log_decay(log_decay: Float[Array, "*B C"]) -> CumLogDecay:
  """Accumulates the log-decays of a chunk of up to 1,024 tokens, along the last axis."""
  log_decay = jnp.maximum(log_decay, FLOOR)
  coarse = jnp.round(log_decay / STEP) * STEP
  return CumLogDecay(jnp.cumsum(coarse, axis=-1), jnp.cumsum(log_decay - coarse, axis=-1))


def to_log_decay(read: Float[Array, "*B C"], kept: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
  """Gradients to the log-decays of chunks: each scales what it and later tokens read, and what earlier ones wrote.

  The second part is summed from the start of the chunk, not as all less the rest: the last writes reach the end of it
  nearly whole, and the rounding of that difference would outweigh gradients through strong decays.
  """
  before = jnp.cumsum(kept, axis=-1)[..., :-1]
  before = jnp.concatenate([jnp.zeros_like(kept[..., :1]), before], axis=-1)
  return jax.lax.cumsum(read, axis=read.ndim - 1, reverse=True) + before


def decay(columns: CumLogDecay, rows: CumLogDecay, last: CumLogDecay) -> Decay:
  """From the accumulated log-decays in columns [C 1] and in rows [1 C], and that of the last token [1 1]."""
  i, j = indices(rows.coarse.shape[-1])
  # Masked before exp: above the diagonal the exponent is positive and may overflow, and inf * 0 poisons gradients.
  between = jnp.exp(jnp.where(i >= j, columns.since(rows), -jnp.inf))
  return Decay(jnp.exp(columns.total()), jnp.exp(last.since(columns)), jnp.exp(last.total()), between)


def strictly_lower(x: Float[Array, "C C"]) -> Float[Array, "C C"]:
  """Zero on the diagonal and above."""
  i, j = indices(x.shape[0])
  return jnp.where(i > j, x, 0.0)


def factor(strict: Float[Array, "C C"], dtype) -> Float[Array, "C C"]:
  """Factors I + strict = X^-1 (I + W) with X made of blocks on the diagonal and W of those below; returns X + W.

  The blocks are inverted row by row, all at once, side by side. No power of one is formed: with keys alike, as
  neighboring tokens have them, those grow and cancel.
  """
  nn, *_ = products(dtype)
  size, rows = strict.shape[0], min(BLOCK, strict.shape[0])
  i, j = indices(size)
  inside = (i ^ j) < rows
  blocks = jnp.where(inside, strict, 0.0).reshape(-1, rows, size).sum(0)
  i, j = i[:rows], j[:rows]
  inverses = jnp.where(i == j & (rows - 1), 1.0, 0.0)
  for n in range(rows - 1):
    factor = _take_lanes(blocks, (j & ~(rows - 1)) + n)
    inverses = inverses - factor * inverses[n : n + 1]
  diagonal = jnp.where(inside, jnp.concatenate([inverses] * (size // rows)), 0.0)
  return diagonal + nn(diagonal, jnp.where(inside, 0.0, strict))


@jax.custom_batching.custom_vmap
def _take_lanes(x: Float[Array, "R C"], lanes: Int[Array, "R C"]) -> Float[Array, "R C"]:
  return jnp.take_along_axis(x, lanes, axis=1)


@_take_lanes.def_vmap
def _take_lanes_of_many(count, batched, x, lanes):
  """Mosaic has no gather with a batch axis: the rows of all lie below each other."""
  del count, batched
  lanes = jnp.broadcast_to(lanes, x.shape)
  rows = jnp.take_along_axis(x.reshape(-1, x.shape[-1]), lanes.reshape(-1, x.shape[-1]), axis=1)
  return rows.reshape(x.shape), True


def solve(factors: Float[Array, "C C"], targets: Float[Array, "C V"], dtype) -> Float[Array, "C V"]:
  """(I + strict)^-1 targets, by substitution over blocks of rows."""
  nn, *_ = products(dtype)
  rest = nn(_diagonal(factors), targets)
  solved = rest[:BLOCK]
  for start in range(BLOCK, factors.shape[0], BLOCK):
    block = rest[start : start + BLOCK] - nn(factors[start : start + BLOCK, :start], solved)
    solved = jnp.concatenate([solved, block])
  return solved


def solve_transposed(factors: Float[Array, "C C"], targets: Float[Array, "C V"], dtype) -> Float[Array, "C V"]:
  """(I + strict)^-T targets, from the last block of rows to the first."""
  *_, tn = products(dtype)
  solved = targets[-BLOCK:]
  for stop in range(factors.shape[0] - BLOCK, 0, -BLOCK):
    block = targets[stop - BLOCK : stop] - tn(factors[stop:, stop - BLOCK : stop], solved)
    solved = jnp.concatenate([block, solved])
  return tn(_diagonal(factors), solved)


def _diagonal(factors):
  i, j = indices(factors.shape[0])
  return jnp.where((i ^ j) < BLOCK, factors, 0.0)


def answers(
  k: Float[Array, "C K"], gates: Decay, exact: jax.lax.PrecisionLike = jax.lax.Precision.HIGHEST
) -> Float[Array, "C C"]:
  """What token i reads of what token j < i wrote: tril(k_i.k_j D_ij, -1); `exact` as in `products`."""
  _, nt, _ = products(k.dtype, exact)
  return strictly_lower(nt(k, k) * gates.between)


def write(
  k: Float[Array, "C K"],
  corrections: Float[Array, "C V"],
  gates: Decay,
  state: Float[Array, "K V"],
  exact: jax.lax.PrecisionLike = jax.lax.Precision.HIGHEST,
) -> Float[Array, "K V"]:
  """The state after the chunk; `exact` as in `products`."""
  *_, tn = products(k.dtype, exact)
  return gates.whole * state + tn(k, gates.end * corrections)


def forward(
  q: Float[Array, "C K"],
  k: Float[Array, "C K"],
  v: Float[Array, "C V"],
  gates: Decay,
  beta: Float[Array, "C 1"],
  state: Float[Array, "K V"],
) -> tuple[Float[Array, "C V"], Float[Array, "K V"]]:
  """Reads of the chunk, and the state after it, in float32."""
  nn, nt, _ = products(k.dtype)
  size = k.shape[0]
  # The state is the operand that is slow to load into a matrix unit: both read it at once.
  from_state = nn(jnp.concatenate([k, q]), state)
  errors = v.astype(jnp.float32) - gates.start * from_state[:size]
  system = beta * answers(k, gates)
  corrections = solve(factor(system, k.dtype), beta * errors, k.dtype)
  reads = gates.start * from_state[size:] + nn(nt(q, k) * gates.between, corrections)
  return reads, write(k, corrections, gates, state)


def recompute(
  k: Float[Array, "C K"],
  v: Float[Array, "C V"],
  gates: Decay,
  beta: Float[Array, "C 1"],
  state: Float[Array, "K V"],
) -> tuple[Float[Array, "C C"], Float[Array, "C V"], Float[Array, "K V"]]:
  """What `backward` wants of a chunk: the block inverses of A, and e; and the state after it."""
  nn, *_ = products(k.dtype)
  system = beta * answers(k, gates)
  factors = factor(system, k.dtype)
  errors = v.astype(jnp.float32) - gates.start * nn(k, state)
  corrections = solve(factors, beta * errors, k.dtype)
  return factors, errors, write(k, corrections, gates, state)


def backward(
  q: Float[Array, "C K"],
  k: Float[Array, "C K"],
  gates: Decay,
  beta: Float[Array, "C 1"],
  state: Float[Array, "K V"],
  factors: Float[Array, "C C"],
  errors: Float[Array, "C V"],
  d_reads: Float[Array, "C V"],
  d_state: Float[Array, "K V"],
) -> Gradients:
  """Gradients to the chunk's inputs, from those of its reads and of the state after it."""
  nn, nt, tn = products(k.dtype)
  size = k.shape[0]
  scores, answer = nt(q, k) * gates.between, answers(k, gates)
  corrections = solve(factors, beta * errors, k.dtype)

  d_corrections = tn(scores, d_reads) + gates.end * nn(k, d_state)
  d_targets = solve_transposed(factors, d_corrections, k.dtype)  # of beta e
  d_errors = beta * d_targets
  # k enters as the token that reads (on the left of D) and as the one that is read (on its right).
  from_state = nt(jnp.concatenate([d_reads.astype(k.dtype), d_errors.astype(k.dtype)]), state)
  d_own, d_scores = apart(nt(d_reads, corrections) * gates.between)
  d_system = nt(d_targets, corrections)
  d_answer = strictly_lower(beta * d_system * gates.between)
  d_q = gates.start * from_state[:size] + nn(d_scores, k)
  d_left = -gates.start * from_state[size:] - nn(d_answer, k)
  d_end = gates.end * nt(corrections, d_state)
  d_right = tn(d_scores, q) - tn(d_answer, k)

  d_beta = _rows(d_targets * errors) - _rows(d_system * answer)
  # Each decay D_ij = G_i / G_j scales what stands left of it with token i and what stands right with 1 / token j. What
  # a token reads of its own write no decay scales: it stays out of both, for their difference would keep its rounding.
  q, k = q.astype(jnp.float32), k.astype(jnp.float32)
  read = _rows(q * d_q + k * (d_left - d_right))
  last = jax.lax.broadcasted_iota(jnp.int32, beta.shape, 0) == size - 1
  read += jnp.where(last, gates.whole * _sum(state * d_state), 0.0)
  d_before = gates.whole * d_state + tn(
    jnp.concatenate([q, k]), jnp.concatenate([gates.start * d_reads.astype(jnp.float32), -gates.start * d_errors])
  )
  d_q, d_k = d_q + d_own * k, d_left + d_right + d_end + d_own * q
  return Gradients(d_q, d_k, d_errors, read, _rows(k * d_end), d_beta, d_before)


def apart(x: Float[Array, "C C"]) -> tuple[Float[Array, "C 1"], Float[Array, "C C"]]:
  """The diagonal in a column, and what lies below it."""
  i, j = indices(x.shape[0])
  return _rows(jnp.where(i == j, x, 0.0)), jnp.where(i > j, x, 0.0)


def _rows(x):
  return jnp.sum(x, axis=1, keepdims=True)


def _sum(x):
  return jnp.sum(_rows(x), axis=0, keepdims=True)
