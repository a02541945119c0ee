"""Gated delta rule, one token at a time: the oracle that every implementation is held to."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def gated_delta(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H"],
  beta: Float[Array, "B T H"],
  state: Float[Array, "B H K V"] | None = None,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Reads and corrects the state S once per token.

      S <- exp(log_decay) S            forget
      S <- S + beta k (v - S^T k)^T    correct what S answers to key k, by the share beta
      o  = S^T q                       read

  Computed in float32 or better; see `api.gated_delta` for the arguments.
  """
  dtype = jnp.promote_types(v.dtype, jnp.float32)
  batch, _, heads, key_dim = k.shape
  if state is None:
    state = jnp.zeros((batch, heads, key_dim, v.shape[-1]), dtype)

  def step(state, token):
    q_t, k_t, v_t, log_decay_t, beta_t = token
    state = state * jnp.exp(log_decay_t)[..., None, None]
    error = v_t - jnp.einsum("bhkv,bhk->bhv", state, k_t)
    state = state + jnp.einsum("bhk,bhv,bh->bhkv", k_t, error, beta_t)
    return state, jnp.einsum("bhkv,bhk->bhv", state, q_t)

  tokens = jax.tree.map(lambda x: jnp.moveaxis(x.astype(dtype), 1, 0), (q, k, v, log_decay, beta))
  state, reads = jax.lax.scan(step, state.astype(dtype), tokens)
  return jnp.moveaxis(reads, 0, 1).astype(v.dtype), state
