"""Interventions: nothing where nothing is changed, and what an oracle says where something is."""

import jax
import numpy as np
import pytest

from kairos_jax import probing
from kairos_jax.errors import KairosError
from kairos_jax.probing import theory
from kairos_jax.runtime import WorldModel
from tests import tiny

STATE = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(scope="module")
def model(tiny_saved):
  return WorldModel(tiny_saved)


@pytest.fixture(scope="module")
def streams(model):
  videos = [np.stack([tiny.frames(9, seed=10 * i + j) for j in range(2)]) for i in range(2)]
  return [model.prefill(video, "push") for video in videos]


def same(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_a_stream_in_its_own_place_is_nothing(model, streams):
  assert same(probing.transplant(streams[0], streams[0], model), streams[0])


def test_a_whole_memory_is_the_donors(model, streams):
  moved = probing.transplant(streams[0], streams[1], model)
  np.testing.assert_array_equal(model.act(moved, STATE), model.act(streams[1], STATE))
  assert same(streams[0], streams[0]) and not same(streams[0].memory, moved.memory)


def test_a_layers_part_alone_is_moved(model, streams):
  moved = probing.transplant(streams[0], streams[1], model, layers=[2], parts=["delta"])
  assert same(moved.memory.delta, streams[1].memory.delta)
  assert same((moved.memory.window, moved.memory.action), (streams[0].memory.window, streams[0].memory.action))
  moved = probing.transplant(streams[0], streams[1], model, layers=[1])
  assert same(moved.memory.window["layer_1"], streams[1].memory.window["layer_1"])
  assert same(moved.memory.window["layer_0"], streams[0].memory.window["layer_0"])


@pytest.mark.mistakes
def test_bad_transplants(model, streams):
  later = model.extend(streams[1], np.zeros((2, 4, 16, 16, 3), np.uint8))
  with pytest.raises(KairosError, match=r"streams at frames \[3, 3\] and \[4, 4\]"):
    probing.transplant(streams[0], later, model)
  with pytest.raises(KairosError, match=r"parts \['gates'\]"):
    probing.transplant(streams[0], streams[1], model, parts=["gates"])
  with pytest.raises(KairosError, match="layer 3 does not exist"):
    probing.transplant(streams[0], streams[1], model, layers=[3])


@pytest.mark.parametrize("layer, module, matrix", [(0, "self_attn", "o"), (2, "gated_delta", "o_proj")])
def test_silence_takes_away_what_is_named_and_nothing_else(model, layer, module, matrix):
  def kernel(model):
    return np.asarray(model.params["video"]["groups"][f"layer_{layer}"][module][matrix]["kernel"][0])

  whole = kernel(model)
  assert not kernel(probing.silence(model, layer)).any()
  one = kernel(probing.silence(model, layer, heads=[1]))
  np.testing.assert_array_equal(one[:8], whole[:8])
  assert not one[8:].any()
  directions = np.random.default_rng(0).standard_normal((2, 16))
  left = kernel(probing.silence(model, layer, directions=directions))
  np.testing.assert_allclose(directions @ left, 0, atol=1e-6)
  readout = np.random.default_rng(1).standard_normal(16)
  readout -= directions.T @ np.linalg.solve(directions @ directions.T, directions @ readout)
  np.testing.assert_allclose(readout @ left, readout @ whole, atol=1e-5)
  changed = probing.silence(model, layer)
  others = [
    np.array_equal(x, y) for x, y in zip(jax.tree.leaves(model.params), jax.tree.leaves(changed.params), strict=True)
  ]
  assert others.count(False) == 1
  with pytest.raises(KairosError, match=r"heads \[2\]; this layer has the heads 0 to 1"):
    probing.silence(model, layer, heads=[2])


def test_an_error_of_size_zero_is_nothing(model, streams):
  latents = np.random.default_rng(0).standard_normal((2, 3, 2, 2, tiny.CHANNELS)).astype(np.float32)
  followed = probing.perturb(model, streams[0], latents, layer=2, size=0.0)
  assert not followed.state.any() and not followed.out.any()


@pytest.mark.slow
def test_an_error_decays_as_the_update_says(tiny_saved, model, streams):
  """Held against the product of the one-step matrices, built from recorded gates and keys in float64."""
  video = np.stack([tiny.frames(17, seed=j) for j in range(2)])
  recording = probing.record(model, video, "push")
  seen = probing.record(model, video[:, :9], "push")
  latents, _ = model.codec.encode(model.params["codec"], video)
  followed = probing.perturb(model, seen.stream, latents[:, 3:], layer=2, size=0.7, seed=5)
  np.testing.assert_allclose(followed.state[0], 0.7, rtol=1e-5)
  error = jax.random.normal(jax.random.key(5), seen.stream.memory.delta["layer_2"].matrix.shape[1:])
  error = np.asarray(error, np.float64)
  error *= 0.7 / np.sqrt(np.square(error).sum(axis=(-2, -1), keepdims=True))
  for frame in (3, 4):
    for token in range(recording.beta[2].shape[2]):
      k, beta, decay = (
        np.asarray(x[2][frame, :, token], np.float64) for x in (recording.key, recording.beta, recording.log_decay)
      )
      inner = np.einsum("bhk,bhkv->bhv", k, error)
      error = np.exp(decay)[..., None, None] * (error - beta[..., None, None] * k[..., None] * inner[:, :, None])
    np.testing.assert_allclose(followed.state[frame - 2], np.sqrt(np.square(error).sum(axis=(-2, -1))), rtol=1e-3)
  assert (followed.state <= followed.bound * (1 + 1e-4)).all() and (followed.out > 0).all()
  assert len(followed.plot().lines) == 4


def test_bad_perturbations(model, streams):
  latents = np.zeros((2, 1, 2, 2, tiny.CHANNELS), np.float32)
  with pytest.raises(KairosError, match=r"layer 0 is SWA; those with a state are \[2\]"):
    probing.perturb(model, streams[0], latents, layer=0)
  with pytest.raises(KairosError, match="size -1"):
    probing.perturb(model, streams[0], latents, layer=2, size=-1)


@pytest.mark.parametrize("length", [1.0, 0.6])
def test_the_operators_norm_is_the_matrixs(length):
  rng = np.random.default_rng(3)
  key = rng.standard_normal((5, 7))
  key *= length / np.linalg.norm(key, axis=-1, keepdims=True)
  decay, beta = rng.uniform(0.2, 1, 5), rng.uniform(0, 1, 5)
  shipped = [a * (np.eye(7) - b * np.outer(k, k)) for k, a, b in zip(key, decay, beta, strict=True)]
  np.testing.assert_allclose(theory.operator_norm(key, decay, beta), [np.linalg.norm(x, 2) for x in shipped])
  paper = [np.linalg.norm(a * np.eye(7) - b * np.outer(k, k), 2) for k, a, b in zip(key, decay, beta, strict=True)]
  assert (theory.paper_rho(key, decay, beta) >= np.array(paper) - 1e-12).all()
  assert theory.lemma_3_holds(key, decay).tolist() == (length**2 < 1 - decay).tolist()


def test_the_bounds_hold_for_updates_drawn_at_random():
  rng = np.random.default_rng(4)
  rho, each, error, worst = 0.8, 0.1, 2.0, [2.0]
  for _ in range(12):
    error = rho * error + each * rng.uniform(0, 1)
    worst.append(error)
  bound = theory.error_bound(rho, 2.0, each, 12)
  assert (np.array(worst) <= bound + 1e-12).all() and bound[0] == 2.0
  np.testing.assert_allclose(theory.error_bound(rho, 2.0, each, 400)[-1], each / (1 - rho))

  def update(state, decay, beta, value, key):
    return decay * state + beta * np.outer(value - state @ key, key)

  for _ in range(200):
    state, value, key = rng.standard_normal((3, 3)), rng.standard_normal(3), rng.standard_normal(3)
    key /= np.linalg.norm(key)
    decay, beta = rng.uniform(0, 1, 2)
    errors = rng.uniform(0, 0.05, 4)
    turned = key + errors[3] * rng.standard_normal(3) / 3
    turned /= max(1.0, np.linalg.norm(turned))
    off = update(state, decay + errors[0], min(1.0, beta + errors[1]), value + errors[2] * np.array([1, 0, 0]), turned)
    far = np.linalg.norm(off - update(state, decay, beta, value, key), 2)
    bounds = np.linalg.norm(state, 2), 1.0, np.linalg.norm(value) + errors[2]
    assert far <= theory.perturbation(*bounds, (*errors[:3], np.linalg.norm(turned - key))) + 1e-9


def test_the_gap_of_a_forgotten_cue_is_the_variance_of_its_indicators():
  rng = np.random.default_rng(5)
  for classes in (2, 4, 8):
    drawn = np.eye(classes)[rng.integers(classes, size=40_000)]
    variance = np.square(drawn - drawn.mean(axis=0)).sum(axis=1).mean()
    assert theory.forgotten_gap(classes) == pytest.approx(variance, abs=2e-3)
  assert theory.forgotten_gap(2, forgotten=0.25) == 0.125
