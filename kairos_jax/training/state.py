"""What training carries from one step to the next."""

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Int32, PRNGKeyArray, PyTree, UInt32


@struct.dataclass
class TrainState:
  """Everything that decides the rest of a run, besides the data iterator.

  Attributes:
    step: number of updates applied so far.
    params: the weights being trained.
    ema: exponential moving average of `params`; the weights to evaluate and ship.
    opt_state: the optimizer's moments and counters.
    key: raw data of the run's random key; step n draws from fold_in(key, n).
  """

  step: Int32[Array, ""]
  params: PyTree[Array]
  ema: PyTree[Array]
  opt_state: optax.OptState
  key: UInt32[Array, "2"]


def create(params: PyTree[Array], optimizer: optax.GradientTransformation, key: PRNGKeyArray) -> TrainState:
  """Returns the state before the first step; `params` is copied, for the training step donates its state."""
  return TrainState(
    step=jnp.int32(0),
    params=jax.tree.map(jnp.copy, params),
    ema=jax.tree.map(jnp.copy, params),
    opt_state=optimizer.init(params),
    key=jax.random.key_data(key),
  )
