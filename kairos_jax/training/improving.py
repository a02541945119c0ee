"""Stages in which one tower learns from rollouts while it is held to what it was, and all else is frozen.

The action tower learns from what it did, well or badly. The video tower learns from pairs of imagined videos, the
better of which is the left half of a picture and the worse one its right half.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kairos_jax.flow.objective import Objective
from kairos_jax.flow.objectives.nft import DiffusionNFT
from kairos_jax.flow.objectives.preference import FlowDPO
from kairos_jax.flow.objectives.towers import ActionNetworks, VideoNetworks
from kairos_jax.flow.schedule import ACTION_SHIFT
from kairos_jax.training.run_config import DpoConfig, NftConfig
from kairos_jax.training.step import LossFn

Params = dict[str, Any]
ACTION, VIDEO, OLD = "action", "video", "old"


def split(params: Params, tower: str) -> tuple[Params, Params]:
  """What trains, and what does not: all other parts, and the tower as it was."""
  return {tower: params[tower]}, {**{name: part for name, part in params.items() if name != tower}, OLD: params[tower]}


def nft_loss(objective: Objective, config: NftConfig, sources: list[str]) -> LossFn:
  """The loss of parameters that have the action tower as it acted beside the model's.

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
    return nft(params[ACTION], params[OLD], data, well, key)

  return loss_fn


def dpo_loss(objective: Objective, config: DpoConfig) -> LossFn:
  """The loss of parameters that have the video tower as it was beside the model's, on batches of pairs."""
  networks = VideoNetworks(objective)

  def loss_fn(params: Params, batch: Any, key: Array) -> tuple[Array, dict[str, Array]]:
    data_key, key = jax.random.split(key)
    winner, loser = (networks.data(params, half, data_key) for half in halves(batch))
    dpo = FlowDPO(networks.velocity, networks.shift(winner.x.shape), config.beta, config.supervised)
    return dpo(params[VIDEO], params[OLD], winner, loser, key)

  return loss_fn


def halves(batch: Any) -> tuple[Any, Any]:
  """The winners and the losers of a batch of pairs."""
  width = batch["video"].shape[-2] // 2
  winners, losers = batch["video"][..., :width, :], batch["video"][..., width:, :]
  return {**batch, "video": winners}, {**batch, "video": losers}
