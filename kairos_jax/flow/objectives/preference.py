"""Flow-DPO: of two samples for one condition, the better one is to be denoised better than before.

With the error e(x) of the network that learns, a mean over elements, and e_ref(x) of a frozen copy::

  e(x) = |v(z) - (noise - x)|^2
  loss = -log sigmoid(-beta / 2 [(e(w) - e_ref(w)) - (e(l) - e_ref(l))]) + supervised e(w)

where winner and loser have the same noise and the same level. Beta is one number for all levels. It depends on the
reduction: 100 for means over elements. Without the supervised term both errors may grow, the loser's only faster.

Source: Diffusion-DPO (arXiv 2311.12908) and Flow-DPO (arXiv 2501.13918).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kairos_jax.flow.objectives.terms import Data, Metrics, Params, Velocity, draw, mean, noised


@dataclasses.dataclass(frozen=True, eq=False)
class FlowDPO:
  """The loss of one step.

  Attributes:
    velocity: of the network and its frozen copy.
    shift: of the noise levels.
    beta: how strongly the network is held to its copy.
    supervised: weight of the winners' own loss.
  """

  velocity: Velocity
  shift: float
  beta: float = 100.0
  supervised: float = 1.0

  def __call__(
    self, params: Params, reference: Params, winner: Data, loser: Data, key: Array
  ) -> tuple[Float[Array, ""], Metrics]:
    """The loss and its parts; "accuracy" is the share of pairs whose winner gained more than its loser."""
    margin, won = self.margins(params, reference, winner, loser, key)
    preference = -jnp.mean(jax.nn.log_sigmoid(0.5 * self.beta * margin))
    loss = preference + self.supervised * jnp.mean(won)
    accuracy = jnp.mean(margin > 0, dtype=jnp.float32)
    return loss, {"loss_preference": preference, "loss_winner": jnp.mean(won), "accuracy": accuracy}

  def margins(
    self, params: Params, reference: Params, winner: Data, loser: Data, key: Array
  ) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """Of each pair: by how much its winner gained more than its loser, and the winner's error."""
    sigma, noise = draw(key, winner.x, self.shift)

    def error(network: Params, data: Data) -> Float[Array, "B"]:
      velocity = self.velocity(network, noised(data.x, noise, sigma), sigma, data.condition)
      return mean(jnp.square(velocity - (noise - data.x)), data.predicted)

    won, lost = error(params, winner), error(params, loser)
    before = jax.lax.stop_gradient(error(reference, winner) - error(reference, loser))
    return before - (won - lost), won
