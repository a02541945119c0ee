"""The towers as networks: with the objective's own draws they make the objective's own losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kairos_jax.errors import KairosError
from kairos_jax.flow.objective import Objective, ObjectiveConfig
from kairos_jax.flow.objectives.terms import mean, noised
from kairos_jax.flow.objectives.towers import ActionNetworks, VideoNetworks
from kairos_jax.interfaces import num_latents
from kairos_jax.model import WorldActionModel
from tests import tiny


@pytest.fixture(scope="module")
def saved():
  return tiny.saved(tiny.model_config(layers=("SWA", "GATED")))


@pytest.fixture(scope="module")
def batch(saved):
  return tiny.batch(saved)


def objective_of(saved, **changes):
  config = ObjectiveConfig(tasks=dict(ti2v=1.0), max_observed=2, text_dropout=0.0, **changes)
  return Objective(WorldActionModel(saved.model_config), saved.encoder, saved.codec, config)


def over_all(values, predicted):
  """As the objective takes its mean: over all that is predicted in the batch, and not sample by sample."""
  counts = predicted.sum(axis=tuple(range(1, predicted.ndim)))
  return float(jnp.sum(mean(values, predicted) * counts) / counts.sum())


def test_video(saved, batch):
  objective, key = objective_of(saved), jax.random.key(4)
  loss, _ = objective(saved.params, batch, key)
  networks = VideoNetworks(objective)
  data = networks.data(saved.params, batch, key)
  draws = objective.draw(batch, data.x.shape, key)
  noisy = noised(data.x, draws.noise, draws.sigma)
  velocity = networks.velocity(saved.params["video"], noisy, draws.sigma, data.condition)
  np.testing.assert_allclose(over_all(jnp.square(velocity - (draws.noise - data.x)), data.predicted), loss, rtol=1e-5)
  # Guidance goes from an empty text's velocity through the text's and beyond.
  without = networks.guided(0.0)(saved.params["video"], noisy, draws.sigma, data.condition)
  beyond = networks.guided(3.0)(saved.params["video"], noisy, draws.sigma, data.condition)
  np.testing.assert_allclose(beyond - without, 3 * (velocity - without), atol=1e-4)
  assert np.abs(velocity - without).max() > 1e-3
  assert len(networks.levels(7, data.x.shape).sigmas) == 7 and data.x.shape[1] == num_latents(saved.codec, 9)


def test_actions(saved, batch):
  objective, key = objective_of(saved, action_horizon=4, chunks_per_clip=2), jax.random.key(4)
  _, told = objective(saved.params, batch, key)
  networks = ActionNetworks(objective)
  data = networks.data(saved.params, batch, key)
  draws = objective.draw(batch, objective.codec.encode(saved.params["codec"], batch["video"])[0].shape, key)
  noisy = noised(data.x, draws.action_noise, draws.action_sigma)
  velocity = networks.velocity(saved.params["action"], noisy, draws.action_sigma, data.condition)
  errors = jnp.square(velocity - (draws.action_noise - data.x))
  np.testing.assert_allclose(over_all(errors, data.predicted), told["loss_action"], rtol=1e-5)
  with pytest.raises(KairosError, match="guidance is 2.0; allowed for actions: 1"):
    networks.guided(2.0)
  with pytest.raises(KairosError, match="max_delay is 0 and the horizon 0"):
    ActionNetworks(objective_of(saved))
