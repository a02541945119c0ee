"""DiffusionNFT: what went well is followed and what went badly is avoided, on one forward objective.

For a sample x of the old policy, which went well with the probability r, and u = noise - x::

  v_plus = v_old + beta (v - v_old),    v_minus = v_old - beta (v - v_old)
  loss = r |v_plus - u|^2 + (1 - r) |v_minus - u|^2

Its minimum is v = v_old + 2/beta E[r | z] (E[u | z, well] - v_old): a step from the old policy towards its successes,
and the longer, the smaller beta. There is no likelihood, no reverse process and no critic.

Source: DiffusionNFT (arXiv 2509.16117).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kairos_jax.flow.objectives.terms import Data, Metrics, Params, Velocity, draw, mean, noised


@dataclasses.dataclass(frozen=True, eq=False)
class DiffusionNFT:
  """The loss of one step.

  Attributes:
    velocity: of the network and of the old policy.
    shift: of the noise levels.
    beta: how much of a new policy's difference the two sides have.
  """

  velocity: Velocity
  shift: float
  beta: float = 1.0

  def __call__(
    self, params: Params, old: Params, data: Data, well: Float[Array, "B"], key: Array
  ) -> tuple[Float[Array, ""], Metrics]:
    """The loss; `data` are the old policy's samples, and `well` from 0 to 1 says how likely each of them was good."""
    sigma, noise = draw(key, data.x, self.shift)
    noisy, target = noised(data.x, noise, sigma), noise - data.x
    before = jax.lax.stop_gradient(self.velocity(old, noisy, sigma, data.condition))
    change = self.beta * (self.velocity(params, noisy, sigma, data.condition) - before)
    followed = mean(jnp.square(before + change - target), data.predicted)
    avoided = mean(jnp.square(before - change - target), data.predicted)
    loss = jnp.mean(well * followed + (1 - well) * avoided)
    return loss, {"loss_nft": loss}
