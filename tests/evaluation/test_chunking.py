"""Late chunks in closed loop: which action is taken when, and what the model is told of it."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.simulate.cue_reach import CueReach
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import chunking
from kairos_jax.runtime import Slots, WorldModel
from tests import tiny

HORIZON = 8


@pytest.fixture(scope="module")
def model(tiny_saved):
  return WorldModel(dataclasses.replace(tiny_saved, action_horizon=HORIZON, max_delay=4))


@pytest.fixture
def told(monkeypatch):
  """Chunks that say which request they answer and which place they hold; what was told, taken and seen."""
  told, taken = [], []

  def act(self, slots, states, *, seeds, steps, previous=None, delays=()):
    number = len(told)
    told.append((previous, delays))
    return np.stack([np.stack([[number, place, 0.0] for place in range(HORIZON)]) / 100 for _ in slots])

  def step(self, action):
    taken.append(tuple(int(x) for x in np.round(100 * np.asarray(action)[:2])))
    self.frame += 1
    return self._observe(), self.frame == 12, True

  monkeypatch.setattr(Slots, "act", act)
  monkeypatch.setattr(CueReach, "step", step)
  return told, taken


HOLD = (0, 0)


@pytest.mark.parametrize(
  ("way", "delay", "actions"),
  [
    ("naive", 0, [(n, i) for n in range(3) for i in range(4)]),
    ("trained", 3, [HOLD] * 3 + [(0, 3), (0, 4), (0, 5), (0, 6), (1, 3), (1, 4), (1, 5), (1, 6), (2, 3)]),
    ("guided", 4, [HOLD] * 4 + [(n, i) for n in range(2) for i in range(4, 8)]),
    ("synchronous", 2, [HOLD] * 2 + [(0, i) for i in range(4)] + [HOLD] * 2 + [(1, i) for i in range(4)]),
  ],
)
def test_a_chunk_is_taken_up_at_the_action_that_is_due(model, told, way, delay, actions):
  asked, taken = told
  assert chunking.success(model, way, delay, [5]).tolist() == [True]
  assert taken == actions
  assert asked[0] == (None, ()) or not asked[0][1]
  for number, (previous, delays) in enumerate(asked[1:]):
    if way in ("naive", "synchronous"):
      assert previous is None
    else:
      assert delays == [delay]
      np.testing.assert_allclose(previous[0][:, :2] * 100, [[number, i] for i in range(4, 8)], atol=1e-4)


@pytest.mark.slow
def test_without_a_delay_all_ways_but_guidance_are_one(model):
  seeds = chunking.episode_seeds(3)
  ways = [chunking.success(model, way, 0, seeds).tolist() for way in ("synchronous", "naive", "trained")]
  assert ways[0] == ways[1] == ways[2]


def test_what_cannot_be(model):
  for delay, seeds in ((5, [1]), (0, [])):
    with pytest.raises(KairosError, match="delay is"):
      chunking.success(model, "naive", delay, seeds)
  plain = WorldModel(dataclasses.replace(model.saved, max_delay=0))
  with pytest.raises(KairosError, match="was trained to be given 0"):
    chunking.success(plain, "trained", 2, [1])


def test_a_trained_prefix_is_kept_and_a_longer_delay_is_as_long_as_it_was_trained(model):
  slots = Slots(WorldModel(dataclasses.replace(model.saved, max_delay=2)), 1)
  slots.insert(0, model.prefill(tiny.frames(1), "push"))
  left = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
  state = np.zeros((1, 3), np.float32)
  free = slots.act([0], state, seeds=[3])[0]
  for delay, kept in ((0, 0), (1, 1), (2, 2), (4, 2)):
    got = slots.act([0], state, seeds=[3], previous=[left], delays=[delay])[0]
    np.testing.assert_array_equal(got[:kept], left[:kept])  # bit for bit: this robot's units are the model's
    assert np.abs(got[kept:] - left[0]).min() > 0
    if not delay:
      np.testing.assert_allclose(got, free, atol=1e-5)
