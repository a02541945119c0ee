"""A recording against the streams that it claims to be of, and half-lives against gates that are planted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kairos_jax import probing
from kairos_jax.errors import KairosError
from kairos_jax.runtime import WorldModel
from tests import tiny


@pytest.fixture(scope="module")
def model(tiny_saved):
  return WorldModel(tiny_saved)


@pytest.fixture(scope="module")
def video():
  return np.stack([tiny.frames(17, seed=i) for i in range(3)])


@pytest.fixture(scope="module")
def recording(model, video):
  return probing.record(model, video, "push")


def stepwise(model, video):
  stream = model.prefill(video[:, :1], "push")
  for start in range(1, video.shape[1], 4):
    stream = model.extend(stream, video[:, start : start + 4])
  return stream


def test_recording_changes_no_output(model, video, recording):
  stream = stepwise(model, video)
  for got, want in zip(jax.tree.leaves(recording.stream), jax.tree.leaves(stream), strict=True):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * max(1, np.abs(want).max()))
  state = np.ones((3, 3), np.float32)
  np.testing.assert_allclose(
    model.act(recording.stream, state, seed=4), model.act(stream, state, seed=4), rtol=1e-4, atol=1e-5
  )


def test_each_layer_and_frame_is_there(model, recording):
  config = model.saved.model_config.video
  tokens = config.tokens_per_frame(2, 2)
  assert recording.kinds == config.layers and recording.latents_per_second == 2.5
  assert {i: x.shape for i, x in recording.out.items()} == {i: (5, 3, tokens, 16) for i in range(3)}
  assert recording.state[2].shape == (5, 3, 2, 8, 8) and list(recording.state) == [2]
  assert recording.beta[2].shape == recording.log_decay[2].shape == (5, 3, tokens, 2)
  assert (recording.beta[2] > 0).all() and (recording.beta[2] < 1).all() and (recording.log_decay[2] < 0).all()
  np.testing.assert_allclose(np.linalg.norm(recording.key[2], axis=-1), 1, rtol=1e-3)
  np.testing.assert_allclose(recording.state[2][-1], recording.stream.memory.delta["layer_2"].matrix[0], rtol=1e-5)


def test_layers_of_repeated_groups_are_told_apart(tiny_saved, video):
  config = tiny.model_config(layers=("GATED", "SWA") * 2)
  model = WorldModel(tiny.saved(config))
  recording = probing.record(model, video[:1], "push")
  assert list(recording.state) == [0, 2] and recording.kinds == ("GATED", "SWA", "GATED", "SWA")
  matrix = recording.stream.memory.delta["layer_0"].matrix
  for layer, group in ((0, 0), (2, 1)):
    np.testing.assert_allclose(recording.state[layer][-1], matrix[group], rtol=1e-5)
  assert np.abs(recording.out[1] - recording.out[3]).max() > 1e-3


def test_a_planted_decay_gives_its_half_life(tiny_saved, video):
  """Heads that forget half of what they hold in 0.8 s and in 3 s, whatever they see."""
  seconds = np.array([0.8, 3.0])

  def plant(path, x):
    name = path[-2].key if path[-1].key == "kernel" else path[-1].key
    tokens_per_second = 2.5 * tiny_saved.model_config.video.tokens_per_frame(2, 2)
    decay = np.log(2) / (seconds * tokens_per_second)
    if name in ("a_proj", "A_log"):
      return jnp.zeros_like(x)
    return jnp.broadcast_to(jnp.log(jnp.expm1(decay)), x.shape) if name == "dt_bias" else x

  params = jax.tree.map_with_path(plant, tiny_saved.params)
  recording = probing.record(WorldModel(dataclasses.replace(tiny_saved, params=params)), video, "push")
  found = probing.half_life(recording)
  np.testing.assert_allclose(found.seconds[2], seconds, rtol=1e-4)
  assert found.plot().get_ylabel() == "half-life, s" and recording.plot().get_xlabel() == "seconds"


def test_a_memory_that_grows_is_refused(video):
  growing = WorldModel(tiny.saved(tiny.model_config(layers=("SWA", "FA"))))
  with pytest.raises(KairosError, match="FA layers of this model keep all frames"):
    probing.record(growing, video, "push")
