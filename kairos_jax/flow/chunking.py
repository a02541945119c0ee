"""Real-time chunking: a new chunk of actions that continues the one that the robot is still executing.

While a chunk is computed the robot goes on for `delay` actions of the old one. The new chunk is made to agree with
what is left of the old one: fully in those first actions, less and less after them, and not in the last `execute` ones,
which the old chunk does not hold. Two ways: guidance at inference, for weights as they are, and a clean prefix, for a
tower that was trained with one.

Source: Black et al., Real-Time Execution of Action Chunking Flow Policies (arXiv:2506.07339), and Training-Time Action
Conditioning for it (arXiv:2512.05964); here noise is at level 1 and data at 0, so signs are turned.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kairos_jax.flow.schedule import TRAIN_TIMESTEPS

Velocity = Callable[[Array, Array], Array]


def soft_mask(horizon: int, delay: Int[Array, "*B"], execute: Int[Array, "*B"]) -> Float[Array, "*B A"]:
  """How much each action of a new chunk must agree with what is left of the old one.

  1 for the first `delay`, 0 for the last `execute`, and between them (e^a - 1) a / (e - 1) with a falling from 1 to 0.

  Args:
    horizon: actions in a chunk.
    delay: actions that are executed before the new chunk is there.
    execute: actions of a chunk that are executed before the next one begins, from `delay` to `horizon - delay`.
  """
  delay, execute = jnp.asarray(delay)[..., None], jnp.asarray(execute)[..., None]
  place = jnp.arange(horizon)
  falling = jnp.clip((delay - 1 - place) / (horizon - execute - delay + 1) + 1, 0.0, 1.0)
  weight = jnp.where(place < delay, 1.0, falling * jnp.expm1(falling) / jnp.expm1(1.0))
  return jnp.where(place < horizon - execute, weight, 0.0)


def guided_by(
  velocity: Velocity,
  previous: Float[Array, "B A action_dim"],
  weights: Float[Array, "B A"],
  most: float | Array,
) -> Velocity:
  """A velocity whose clean actions are drawn towards `previous`, through the exact Jacobian of the model.

  With x0(z) = z - sigma v(z) and e = weights (previous - x0), it is v - w (d x0 / d z)^T e, where
  w = min(most, (sigma^2 + (1 - sigma)^2) / (sigma (1 - sigma))).

  Args:
    velocity: (actions, timestep) -> velocity, of one timestep for all.
    previous: what is left of the old chunk, moved to the front; what follows it is not read where weights are 0.
    weights: of `soft_mask`; 0 everywhere leaves the velocity as it is.
    most: the strongest guidance; as large as the number of steps is usual.
  """

  def guided(actions: Array, timestep: Array) -> Array:
    sigma = jnp.asarray(timestep, actions.dtype) / TRAIN_TIMESTEPS

    def clean(z: Array) -> tuple[Array, Array]:
      v = velocity(z, timestep)
      return z - sigma * v, v

    x0, pull_back, v = jax.vjp(clean, actions, has_aux=True)
    (pull,) = pull_back(weights[..., None] * (previous - x0))
    spread = sigma * (1 - sigma)
    strength = (sigma**2 + (1 - sigma) ** 2) / jnp.where(spread > 0, spread, 1.0)
    return v - jnp.where(spread > 0, jnp.minimum(most, strength), most) * pull

  return guided


def in_prefix(horizon: int, delay: Int[Array, "B"]) -> Bool[Array, "B A"]:
  """Which actions of a chunk are among its first `delay`."""
  return jnp.arange(horizon) < jnp.asarray(delay)[:, None]


def hold_prefix(
  previous: Float[Array, "B A action_dim"], delay: Int[Array, "B"]
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
  """For a tower trained with clean prefixes: what keeps the first `delay` actions, and each action's own timestep.

  Returns:
    (constrain, timesteps): the first puts the prefix back into actions [B A action_dim], bit for bit; the second makes
    timesteps [B A] of a timestep (one for all, or [B 1]), 0 in the prefix.
  """
  known = in_prefix(previous.shape[1], delay)
  constrain = lambda actions: jnp.where(known[..., None], previous, actions)  # noqa: E731
  timesteps = lambda timestep: jnp.where(known, 0.0, timestep)  # noqa: E731
  return constrain, timesteps
