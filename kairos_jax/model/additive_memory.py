"""A memory that only writes: the gated delta rule without its correction, to measure what the correction is worth."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def additive_memory(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H"],
  beta: Float[Array, "B T H"],
  state: Float[Array, "B H K V"] | None = None,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Reads and writes the state S once per token; arguments and results are those of `gated_delta`.

      S <- exp(log_decay) S + beta k v^T
      o  = S^T q

  What a key held before stays beside what is written, as in linear attention with gates (arXiv 2312.06635).
  """
  if state is None:
    state = jnp.zeros((k.shape[0], k.shape[2], k.shape[3], v.shape[3]), jnp.float32)

  def step(state, token):
    q_t, k_t, v_t, log_decay_t, beta_t = token
    state = state * jnp.exp(log_decay_t)[..., None, None] + jnp.einsum("bhk,bhv,bh->bhkv", k_t, v_t, beta_t)
    return state, jnp.einsum("bhkv,bhk->bhv", state, q_t)

  tokens = jax.tree.map(lambda x: jnp.moveaxis(x.astype(jnp.float32), 1, 0), (q, k, v, log_decay, beta))
  state, reads = jax.lax.scan(step, state, tokens)
  return jnp.moveaxis(reads, 0, 1).astype(v.dtype), state
