"""Several networks in one step, such as a student and its critic: each has its own loss, optimizer and turn.

They lie beside each other in the parameters, under their names. A network's loss reads them all, and its gradient is
of that network alone. A network whose turn it is not is neither computed nor changed, its optimizer's moments
included. All of them are one state with one average: sharded, checkpointed, refused and resumed as one network is.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from kairos_jax.errors import KairosError
from kairos_jax.training.optimizer import make_optimizer
from kairos_jax.training.run_config import OptimizerConfig

if TYPE_CHECKING:
  from kairos_jax.training.step import LossFn

Params = dict[str, Any]


class Network(NamedTuple):
  """How one of the networks learns.

  Attributes:
    loss_fn: (params, batch, key) -> (scalar loss, dict of scalar metrics), of the parameters of all networks.
    optimizer: its schedule counts this network's updates.
    every: steps of the run for one update, which is the last of them.
  """

  loss_fn: "LossFn"
  optimizer: OptimizerConfig
  every: int = 1


@dataclasses.dataclass(frozen=True, eq=False)
class InTurn:
  """The networks by name; no two of them have a metric of the same name."""

  networks: Mapping[str, Network]

  def at(self, step: Int[Array, ""]) -> "LossFn":
    """The sum of the losses of those whose turn it is. The metrics of the others are NaN."""

    def loss_fn(params: Params, batch: Any, key: Array) -> tuple[Array, dict[str, Array]]:
      total, told = jnp.float32(0), dict[str, Array]()
      for number, (name, network) in enumerate(sorted(self.networks.items())):
        others = {other: jax.lax.stop_gradient(value) for other, value in params.items() if other != name}
        inputs = ({**others, name: params[name]}, batch, jax.random.fold_in(key, number))
        shapes = jax.eval_shape(network.loss_fn, *inputs)
        nothing = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes[1])
        loss, metrics = jax.lax.cond(
          _is_turn(step, network.every),
          network.loss_fn,
          lambda *_, nothing=nothing, kind=shapes[0].dtype: (jnp.zeros((), kind), nothing),
          *inputs,
        )
        total, told = total + loss, {**told, **metrics}
      return total, told

    return loss_fn

  def optimizer(self, steps: int) -> optax.GradientTransformation:
    """Of all networks, for a run of so many steps.

    Raises:
      KairosError: a network has no turn in so few.
    """
    each = {}
    for name, network in self.networks.items():
      turns = steps // network.every
      if not turns:
        raise KairosError(f"{name} is updated every {network.every} steps; allowed: up to the {steps} of the stage")
      config = dataclasses.replace(network.optimizer, warmup_steps=min(network.optimizer.warmup_steps, turns - 1))
      is_turn = lambda step, every=network.every: _is_turn(step, every)  # noqa: E731
      each[name] = optax.transforms.conditionally_mask(make_optimizer(config, turns), is_turn)

    def init(params: Params) -> Params:
      return {name: one.init(params[name]) for name, one in each.items()}

    def update(gradients: Params, state: Params, params: Params | None = None) -> tuple[Params, Params]:
      assert params is not None
      both = {name: one.update(gradients[name], state[name], params[name]) for name, one in each.items()}
      return {name: updates for name, (updates, _) in both.items()}, {name: new for name, (_, new) in both.items()}

    return optax.GradientTransformation(init, update)


def _is_turn(step: Int[Array, ""], every: int) -> Array:
  return step % every == every - 1
