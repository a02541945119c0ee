"""What the gated delta rule costs, by formula: the same for every implementation, so that their times compare."""

import jax.numpy as jnp

CHUNK = 64


def flops(batch: int, tokens: int, heads: int, key_dim: int, value_dim: int, *, backward: bool) -> int:
  """Operations of the chunked form at chunks of 64: those of its matrix products, a multiply-add counted as two.

  Forward, per token: the state is read for k and for q and written once; k k^T, q k^T, the solve (half of a square)
  and P u. Backward, per token: the state is written and read once more to have it again, and read or written six
  times; k k^T, q k^T, the solve, its transpose, do u^T, dr u^T, P^T do, and four products with q or k.
  """
  state, keys, values = key_dim * value_dim, CHUNK * key_dim, CHUNK * value_dim
  solve = values // 2
  if backward:
    products = 8 * state + 6 * keys + 3 * values + 2 * solve
  else:
    products = 3 * state + 2 * keys + values + solve
  return 2 * batch * tokens * heads * products


def hbm_bytes(batch: int, tokens: int, heads: int, key_dim: int, value_dim: int, dtype, *, backward: bool) -> int:
  """Bytes of the inputs and outputs, each once: the least that any implementation moves.

  Forward q, k, v, reads; backward q, k, v, the reads' gradients and three gradients; gates and states in float32.
  """
  keys, values = (4, 3) if backward else (2, 2)
  per_token = (keys * key_dim + values * value_dim) * jnp.dtype(dtype).itemsize + 4 * (4 if backward else 2)
  return batch * heads * (tokens * per_token + 2 * 4 * key_dim * value_dim)
