"""Gated delta rule in chunks: matrix products inside a chunk, one state carried between chunks. Linear in tokens."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

BLOCK = 16
SEGMENT = 8


def gated_delta(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H"],
  beta: Float[Array, "B T H"],
  state: Float[Array, "B H K V"] | None = None,
  *,
  chunk: int = 64,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Same contract as `api.gated_delta`.

  With G the decay accumulated inside a chunk, the corrections u of its tokens solve a unit lower triangular system

      (I + tril(beta_i G_i/G_j k_i.k_j, -1)) u = beta (v - G k S)

  so u = u0 - w S with (u0, w) known for all chunks at once; only S is carried from chunk to chunk. "All" are those of
  a segment, so that what they need stays in a CPU's cache.

  Source: Gated DeltaNet (arXiv 2412.06464), section 3.3, the WY form.
  """
  batch, tokens, heads, key_dim = k.shape
  if state is None:
    state = jnp.zeros((batch, heads, key_dim, v.shape[-1]), jnp.float32)
  state = state.astype(jnp.float32)
  if tokens == 1:
    first = [x[:, 0].astype(jnp.float32) for x in (q, k, v, log_decay, beta)]
    reads, state = _one_token(first, state)
    return reads[:, None].astype(v.dtype), state
  size = min(chunk, math.ceil(tokens / BLOCK) * BLOCK)
  chunks = math.ceil(tokens / size)
  segments = math.ceil(chunks / SEGMENT)
  count = math.ceil(chunks / segments)

  def split(x):  # padding has log_decay = beta = 0: it neither forgets nor writes
    padding = segments * count * size - tokens
    x = jnp.pad(x.astype(jnp.float32), [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
    return rearrange(x, "b (s n c) h ... -> s n b h c ...", s=segments, c=size)

  # Of several segments the backward pass keeps only the memories between them; a single one would gain nothing.
  segment = jax.checkpoint(_segment) if segments > 1 else _segment
  state, reads = jax.lax.scan(segment, state, [split(x) for x in (q, k, v, log_decay, beta)])
  return rearrange(reads, "s n b h c v -> b (s n c) h v")[:, :tokens].astype(v.dtype), state


def _segment(state: Float[Array, "B H K V"], inputs) -> tuple[Float[Array, "B H K V"], Float[Array, "N B H C V"]]:
  """The memory after a segment of N chunks, and its reads; inputs are [N B H C ...]."""
  q, k, v, log_decay, beta = inputs
  log_decay = jnp.cumsum(log_decay, axis=-1)
  # Masked before exp: above the diagonal the exponent is positive and may overflow, and inf * 0 poisons gradients.
  causal = jnp.tril(jnp.ones((k.shape[-2],) * 2, bool))
  between = log_decay[..., :, None] - log_decay[..., None, :]
  between = jnp.exp(jnp.where(causal, between, -jnp.inf))  # decay from token j to token i
  decay = jnp.exp(log_decay)[..., None]

  system = jnp.tril(jnp.einsum("nbhik,nbhjk->nbhij", beta[..., None] * k, k) * between, -1)
  targets = beta[..., None] * jnp.concatenate([v, decay * k], axis=-1)
  u0, w = jnp.split(_solve_unit_lower(system, targets, BLOCK), [v.shape[-1]], axis=-1)
  scores = jnp.einsum("nbhik,nbhjk->nbhij", q, k) * between
  to_end = jnp.exp(log_decay[..., -1:] - log_decay)[..., None]

  def step(memory, inputs):
    scores, u0, w, decayed_q, k_to_end, decay_all = inputs
    u = u0 - w @ memory
    reads = decayed_q @ memory + scores @ u
    memory = decay_all * memory + jnp.einsum("bhck,bhcv->bhkv", k_to_end, u)
    return memory, reads

  return jax.lax.scan(step, state, (scores, u0, w, decay * q, to_end * k, decay[..., -1:, :]))


def _one_token(
  inputs: Sequence[Float[Array, "B H ..."]], state: Float[Array, "B H K V"]
) -> tuple[Float[Array, "B H V"], Float[Array, "B H K V"]]:
  """A step of the recurrence: the memory is read once for key and query together, and once to be updated."""
  q, k, v, log_decay, beta = inputs
  decay = jnp.exp(log_decay)[..., None]
  expected, read = decay * jnp.einsum("nbhk,bhkv->nbhv", jnp.stack([k, q]), state)
  correction = beta[..., None] * (v - expected)
  read = read + jnp.sum(q * k, axis=-1, keepdims=True) * correction
  state = decay[..., None] * state + k[..., :, None] * correction[..., None, :]
  return read, state


def _solve_unit_lower(
  strict: Float[Array, "... C C"], targets: Float[Array, "... C D"], block: int
) -> Float[Array, "... C D"]:
  """Solves (I + strict) x = targets by forward substitution over blocks of rows.

  Matrix products alone: the library solver goes through LAPACK on a CPU, one small matrix at a time, and many times
  slower when its threads compete. Only diagonal blocks are inverted, for substitution against the right-hand side
  keeps more digits than multiplying by the whole inverse.
  """
  starts = range(0, strict.shape[-1], block)
  diagonal = jnp.stack([strict[..., i : i + block, i : i + block] for i in starts], axis=-3)
  inverse = _inverse_unit_lower(diagonal)
  solved: list[Array] = []
  for index, start in enumerate(starts):
    rest = targets[..., start : start + block, :]
    if solved:
      rest = rest - strict[..., start : start + block, :start] @ jnp.concatenate(solved, axis=-2)
    solved.append(inverse[..., index, :, :] @ rest)
  return jnp.concatenate(solved, axis=-2)


def _inverse_unit_lower(strict: Float[Array, "... C C"]) -> Float[Array, "... C C"]:
  """(I + strict)^-1, halving: the off-diagonal quarter of the inverse is -bottom^-1 quarter top^-1."""
  size = strict.shape[-1]
  if size == 1:
    return jnp.ones_like(strict)
  half = size // 2
  quarters = jnp.stack([strict[..., i : i + half, i : i + half] for i in (0, half)], axis=-3)
  top, bottom = jnp.moveaxis(_inverse_unit_lower(quarters), -3, 0)
  low = -bottom @ strict[..., half:, :half] @ top
  return jnp.block([[top, jnp.zeros_like(top)], [low, bottom]])
