"""A stage that learns from rollouts: what trains, what is frozen, and which clips went badly."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kairos_jax.flow.objective import Objective, ObjectiveConfig
from kairos_jax.flow.objectives.nft import DiffusionNFT
from kairos_jax.model import WorldActionModel
from kairos_jax.training import adapted, improving
from kairos_jax.training import frozen as frozen_lib
from kairos_jax.training.run_config import NftConfig
from tests import tiny

STAGE = SimpleNamespace(distill=None, nft=NftConfig(1.0, ("lost",)), dpo=None, lora=None)


@pytest.mark.mistakes
def test_the_action_tower_trains_beside_itself_as_it_acted(tiny_saved, monkeypatch):
  params, key = tiny_saved.params, jax.random.key(0)
  trained, frozen = adapted.split(params, STAGE, key)
  assert set(trained) == {"action"} and set(frozen) == {"video", "bridge", "codec", "old"}
  assert frozen["old"] is params["action"]
  whole = adapted.whole(jax.tree.map(lambda x: x + 1, trained), frozen, STAGE)
  assert set(whole) == set(params)
  np.testing.assert_array_equal(jax.tree.leaves(whole["action"])[0], jax.tree.leaves(params["action"])[0] + 1)

  config = ObjectiveConfig(tasks=dict(ti2v=1.0), max_observed=2, action_horizon=4, chunks_per_clip=2)
  objective = Objective(WorldActionModel(tiny_saved.model_config), tiny_saved.encoder, tiny_saved.codec, config)
  batch = {**tiny.batch(tiny_saved), "source": np.array([1, 0, 2], np.int32)}
  batch = jax.tree.map(jnp.asarray, batch)
  seen = []
  inner = DiffusionNFT.__call__

  def watched(self, params, old, data, well, key):
    seen.append((params is old, data.x.shape, well.shape))
    return inner(self, params, old, data, well, key)

  monkeypatch.setattr(DiffusionNFT, "__call__", watched)
  loss_fn = improving.nft_loss(objective, STAGE.nft, ["lost", "taught", "won"])
  gradient = jax.grad(lambda action: loss_fn(frozen_lib.merge({"action": action}, frozen), batch, key)[0])
  shapes = jax.eval_shape(gradient, params["action"])  # all of it is traced, and nothing compiled
  assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params["action"])
  assert seen == [(False, (6, 4, 3), (6,))]


@pytest.mark.mistakes
def test_only_what_is_named_went_badly(monkeypatch):
  told = []
  monkeypatch.setattr(
    improving, "ActionNetworks", lambda objective: SimpleNamespace(velocity=None, data=lambda *_: None)
  )
  monkeypatch.setattr(improving, "DiffusionNFT", lambda *_: lambda params, old, data, well, key: told.append(well))
  objective = SimpleNamespace(config=SimpleNamespace(chunks_per_clip=2))
  loss_fn = improving.nft_loss(objective, dataclasses.replace(STAGE.nft), ["lost", "taught", "won"])
  loss_fn({"action": 1, "old": 2}, {"source": jnp.array([1, 0, 2])}, jax.random.key(0))
  np.testing.assert_array_equal(told[0], [1, 1, 0, 0, 1, 1])
