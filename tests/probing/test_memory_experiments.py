"""Laws of the experiments on memories: transplants and choices, drift, continual errors, Lemma 4."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.simulate.delayed_cue_reach import DelayedCueReach
from kairos_jax import probing
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import rollout
from kairos_jax.probing import theory
from kairos_jax.runtime import WorldModel
from tests import tiny


@pytest.fixture(scope="module")
def model(tiny_saved):
  return WorldModel(tiny_saved)


@pytest.fixture(scope="module")
def video():
  return np.stack([tiny.frames(17, seed=i) for i in range(2)])


def test_skipping_a_wait_is_waiting():
  waited, skipped = (DelayedCueReach(16) for _ in range(2))
  for environment in (waited, skipped):
    environment.reset(4, delay=8)
  while waited.frame < waited.go + 3:
    seen = waited.step(np.ones(3))[0]
  now = skipped.skip()
  assert skipped.frame == waited.frame == 16 and (now.state == seen.state).all()
  np.testing.assert_array_equal(now.images["front"], seen.images["front"])
  assert not np.array_equal(skipped.step(np.ones(3))[0].state, now.state)


@pytest.mark.slow
def test_choices_follow_the_memory_that_decides(model):
  """A model of random weights: with nothing moved it chooses as it does, and with all moved as its twin does."""
  names = {"nothing": dict(parts=()), "everything": {}, "one layer": dict(layers=[2])}
  found = probing.choices(model, 4, names, colors=2, scenes=4)
  assert all(found.own[name] + found.donor[name] == 4 for name in names)
  own, donor = found.shares("nothing")
  assert own.low <= found.own["nothing"] / 4 <= own.high and own.value + donor.value == 1
  assert found.plot().get_ylabel() == "share of scenes"
  with pytest.raises(KairosError, match="delay is 6; allowed: multiples of 4"):
    probing.choices(model, 6, names)


@pytest.mark.slow
def test_drift_is_imagination_frame_by_frame(model, video):
  stream = model.prefill(video, "push")
  found = probing.drift(model, stream, [0, 2, 5], seed=3)
  assert list(found.norm) == [2] and found.norm[2].shape == (6, 2) and found.seconds.tolist() == [0.4, 1.2, 2.4]
  assert found.out.shape[:2] == (3, 2) and found.latents.shape == (3, 2, 2, 2, tiny.CHANNELS)
  again = probing.drift(model, stream, [5], seed=3)
  np.testing.assert_allclose(again.latents[-1], found.latents[-1], atol=1e-4)
  first = model.imagine_latents(stream, 1, seed=3)
  np.testing.assert_allclose(found.latents[0], first[:, 0], atol=1e-5)
  after = model.extend_latents(stream, first).memory.delta["layer_2"].matrix[0]
  np.testing.assert_allclose(found.norm[2][0], np.sqrt(np.square(after).sum(axis=(1, 2, 3))), rtol=1e-4)
  assert found.plot().get_xlabel() == "seconds of imagination"
  assert next(iter(rollout.segments(model, stream, 1, 4, 3))).shape[1] == 4  # the stream is as it was


@pytest.mark.slow
def test_an_error_that_comes_again_stays_below_its_bound(video):
  """Which is what the decays leave of all errors so far."""
  model = WorldModel(tiny.saved(tiny.model_config(layers=("GATED", "SWA"))))
  latents, _ = model.codec.encode(model.params["codec"], video)
  stream = model.prefill(video[:, :1], "push")
  state = np.ones((2, 3), np.float32)
  found = probing.perturb(model, stream, latents[:, 1:], 0, size=0.0, each=0.1, state=state)
  assert not found.state[0].any() and (found.state[1:] > 0).all()
  np.testing.assert_allclose(found.state[1], 0.1, rtol=1e-4)
  assert (found.state <= found.bound * (1 + 1e-4)).all() and (found.action[1:] > 0).all()
  one = probing.perturb(model, stream, latents[:, 1:], 0, size=0.1)
  decay = one.bound[1:] / one.bound[:-1]
  bound = np.zeros_like(found.bound)
  for t, share in enumerate(decay):
    bound[t + 1] = share * bound[t] + 0.1
  np.testing.assert_allclose(found.bound, bound, rtol=1e-5)
  assert np.isnan(one.action).all()
  with pytest.raises(KairosError, match="size -0.1"):
    probing.perturb(model, stream, latents[:, 1:], 0, each=-0.1)


def test_lemma_4_bounds_every_kind_of_error(model, video):
  recording = probing.record(model, video, "push")
  found = probing.envelope(recording, 2, size=0.02)
  assert all((found.off[name] <= found.bound[name] * (1 + 1e-6)).all() for name in found.off)
  assert {len(x) for x in found.off.values()} == {4 * 2 * 2} and all((x > 0).all() for x in found.off.values())
  nothing = probing.envelope(recording, 2, size=0.0)
  assert all(np.abs(x).max() < 1e-12 for x in nothing.off.values())
  state = recording.state[2][0, 0, 0].T.astype(np.float64)  # by hand: an error of the value alone
  key, value = (x[2][1, 0, 0, 0].astype(np.float64) for x in (recording.key, recording.value))
  beta = float(recording.beta[2][1, 0, 0, 0])
  rng = np.random.default_rng(0)
  off = rng.standard_normal((16, len(value)))[0]
  off *= 0.02 * np.linalg.norm(value) / np.linalg.norm(off)
  np.testing.assert_allclose(found.off["value"][0], beta * np.linalg.norm(off) * np.linalg.norm(key), rtol=1e-6)
  assert theory.perturbation(np.linalg.norm(state, 2), 1, 1, (0, 0, 0, 0)) == 0
  with pytest.raises(KairosError, match="layer 1 has no state"):
    probing.envelope(dataclasses.replace(recording), 1)
