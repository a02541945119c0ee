"""Flow matching on what a policy did, weighted by how well it went.

The loss is::

  sum w_i |v - (noise - x_i)|^2 / sum w_i

Weights of 1 for successes and 0 for the rest are filtered imitation. Weights exp(reward / temperature) are
reward-weighted regression: what is learned is p(x) exp(r(x) / temperature), the best policy that is close to the old.

Source: reward-weighted regression (Peters and Schaal, ICML 2007), on the flow's loss.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kairos_jax.flow.objectives.terms import Data, Metrics, Params, Velocity, draw, mean, noised


@dataclasses.dataclass(frozen=True, eq=False)
class WeightedFlow:
  """The loss of one step.

  Attributes:
    velocity: of the network.
    shift: of the noise levels.
  """

  velocity: Velocity
  shift: float

  def __call__(
    self, params: Params, data: Data, weights: Float[Array, "B"], key: Array
  ) -> tuple[Float[Array, ""], Metrics]:
    """The weighted loss; 0 if all weights are."""
    sigma, noise = draw(key, data.x, self.shift)
    velocity = self.velocity(params, noised(data.x, noise, sigma), sigma, data.condition)
    errors = mean(jnp.square(velocity - (noise - data.x)), data.predicted)
    total = jnp.sum(weights)
    loss = jnp.sum(weights * errors) / jnp.where(total > 0, total, 1.0)
    return loss, {"loss_flow": loss}


def filtered(reward: Float[Array, "B"], least: float) -> Float[Array, "B"]:
  """1 for what reached `least`, 0 for the rest."""
  return (reward >= least).astype(jnp.float32)


def exponential(reward: Float[Array, "B"], temperature: float) -> Float[Array, "B"]:
  """exp(reward / temperature), with mean 1."""
  return jax.nn.softmax(reward / temperature) * reward.shape[0]
