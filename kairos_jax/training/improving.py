"""A stage in which the action tower learns from its own rollouts, those that went well and those that did not."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kairos_jax.flow.objective import Objective
from kairos_jax.flow.objectives.nft import DiffusionNFT
from kairos_jax.flow.objectives.towers import ActionNetworks
from kairos_jax.flow.schedule import ACTION_SHIFT
from kairos_jax.training.run_config import NftConfig
from kairos_jax.training.step import LossFn

Params = dict[str, Any]
TOWER, OLD = "action", "old"


def frozen(params: Params) -> Params:
  """What does not train: all other parts, and the tower as it acted."""
  return {**{name: part for name, part in params.items() if name != TOWER}, OLD: params[TOWER]}


def loss(objective: Objective, config: NftConfig, sources: list[str]) -> LossFn:
  """The loss of parameters that have the tower as it acted beside the model's.

  Args:
    objective: of the stage.
    config: which sources went badly.
    sources: all of them, in the order in which batches count them.
  """
  networks = ActionNetworks(objective)
  nft = DiffusionNFT(networks.velocity, ACTION_SHIFT, config.beta)
  went_well = jnp.asarray([name not in config.lost for name in sources], jnp.float32)

  def loss_fn(params: Params, batch: Any, key: Array) -> tuple[Array, dict[str, Array]]:
    data_key, key = jax.random.split(key)
    data = networks.data(params, batch, data_key)
    well = jnp.repeat(went_well[batch["source"]], objective.config.chunks_per_clip)
    return nft(params[TOWER], params[OLD], data, well, key)

  return loss_fn
