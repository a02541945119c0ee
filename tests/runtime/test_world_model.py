import dataclasses

import numpy as np
import pytest

from data_pipelines.normalize import Normalizer
from kairos_jax.errors import KairosError
from kairos_jax.interop import saved_model
from kairos_jax.runtime import WorldModel, load
from tests import tiny


@pytest.fixture(scope="module")
def model(tiny_saved):
  return WorldModel(tiny_saved)


def test_a_batch_is_its_episodes_one_by_one(model):
  """Prefill, extend and act: episodes do not read each other, and each may have its own instruction."""
  first, later = np.stack([tiny.frames(5, seed=i) for i in (0, 1)]), np.stack([tiny.frames(4, seed=i) for i in (2, 3)])
  states, texts = np.array([[0.1, 0.2, 0.3], [-0.5, 0.0, 0.5]], np.float32), ["push", "pull it"]
  stream = model.extend(model.prefill(first, texts), later)
  assert stream.batch == 2 and int(stream.memory.position) == 3
  got = model.act(stream, states, steps=2)
  assert got.shape == (2, model.saved.action_horizon, 3)
  swapped = model.extend(model.prefill(first[::-1], texts[::-1]), later[::-1])
  noise = model.act(stream, states, steps=2, seed=1)
  assert np.abs(noise - got).max() > 1e-3  # another seed, other actions
  # The noise belongs to the place in the batch, so equal episodes are compared in equal places.
  same = model.extend(model.prefill(first[[0, 0]], texts[0]), later[[0, 0]])
  np.testing.assert_allclose(model.act(same, states[[0, 0]], steps=2)[0], got[0], atol=1e-4)
  assert np.abs(model.act(swapped, states[::-1], steps=2)[0] - got[0]).max() > 1e-3


def test_a_saved_and_loaded_model_acts_in_the_robots_units(model, tmp_path):
  units = Normalizer(np.zeros(3, np.float32), np.full(3, 10, np.float32))
  saved_model.save(tmp_path / "model", dataclasses.replace(model.saved, action_normalizer=units))
  stream, state = model.prefill(tiny.frames(5), "push"), np.array([0.1, 0.2, 0.3], np.float32)
  want, got = (m.act(stream, state, steps=2) for m in (model, load(tmp_path)))
  assert got.shape == (model.saved.action_horizon, 3)  # one state, one chunk
  np.testing.assert_allclose(got, 5 + 5 * want, rtol=1e-4, atol=1e-4)


def test_errors_are_one_line(model, tiny_saved):
  stream = model.prefill(tiny.frames(1), "push")
  model_config = dataclasses.replace(tiny_saved.model_config, action=None)
  for run, says in {
    lambda: model.prefill(tiny.frames(4), "push"): r"1 \+ 4n",
    lambda: model.prefill(tiny.frames(1).astype(np.float32), "push"): "must be uint8",
    lambda: model.prefill(tiny.frames(1), ["push", "pull"]): "2 instructions for 1 episodes",
    lambda: model.extend(stream, tiny.frames(5)): "4n",
    lambda: model.imagine(stream, frames=6): "multiple of 4",
    lambda: model.act(stream, np.zeros(4, np.float32)): r"\(1, 4\); it must be \(1, 3\)",
    lambda: model.act(stream, np.zeros((2, 3), np.float32)): r"\(2, 3\); it must be \(1, 3\)",
    lambda: WorldModel(dataclasses.replace(tiny_saved, model_config=model_config)).act(
      stream, np.zeros(3)
    ): "no action tower",
  }.items():
    with pytest.raises(KairosError, match=says) as caught:
      run()
    assert "\n" not in str(caught.value)
