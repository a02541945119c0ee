"""Reach: the gradient is zero where the tower cannot look, and is not where it can."""

import math

import numpy as np
import pytest

from kairos_jax import probing
from kairos_jax.errors import KairosError
from kairos_jax.runtime import WorldModel
from tests import tiny

STATE = np.full((2, 3), 0.3, np.float32)
VIDEO = np.stack([tiny.frames(33, seed=i) for i in range(2)])  # 9 latent frames


@pytest.mark.parametrize(
  "layers, video_frames, action, video",
  [
    (("SWA", "DSWA"), 1, 1, 2),  # windows of 2 frames see 1 frame back, 2 with the dilation
    (("DSWA", "SWA"), 1, 2, 2),
    (("SWA", "DSWA"), 3, 3, 2),
    (("SWA", "DSWA") * 2, 1, 4, 5),
    (("GATED", "SWA"), 1, math.inf, math.inf),
    (("SWA", "GATED"), 1, 0, math.inf),
    (("FA", "SWA"), 1, math.inf, math.inf),
  ],
)
def test_the_reach_that_a_config_gives(layers, video_frames, action, video):
  config = tiny.model_config(layers=layers, video_frames=video_frames)
  assert probing.action_reach(config) == action and probing.video_reach(config) == video


@pytest.mark.parametrize(
  "layers",
  [
    ("DSWA", "SWA"),
    pytest.param(("SWA", "DSWA"), marks=pytest.mark.slow),
    pytest.param(("GATED", "SWA"), marks=pytest.mark.slow),
  ],
)
@pytest.mark.parametrize("of", [pytest.param("action", marks=pytest.mark.slow), "video"])
def test_beyond_the_reach_the_gradient_is_zero(layers, of):
  model = WorldModel(tiny.saved(tiny.model_config(layers=layers, video_frames=1)))
  found = probing.reach(model, VIDEO, "push", STATE, of=of, directions=2)
  assert found.gradient.shape == (2, 9)
  reach = min(found.computed, 8)
  beyond, within = np.split(found.gradient, [9 - 1 - int(reach)], axis=1)
  assert not beyond.any() and (found.gradient[:, -1] > 0).all() and (within[:, 0] > 0).all()
  assert found.plot().get_xlabel() == "seconds into the past"


@pytest.mark.slow
def test_the_gradient_is_the_difference_quotient():
  model = WorldModel(tiny.saved(tiny.model_config(layers=("SWA", "DSWA"), video_frames=1)))
  found = probing.reach(model, VIDEO[:, :9], "push", STATE, directions=64)
  latents = np.asarray(model.codec.encode(model.params["codec"], VIDEO[:, :9])[0])
  begin = model.prefill(VIDEO[:, :1], "push")
  rng, squares = np.random.default_rng(0), []

  def actions(latents):
    stream = model.extend_latents(begin, latents[:, 1:2])
    return model.act(model.extend_latents(stream, latents[:, 2:]), STATE)

  for _ in range(24):
    way = rng.standard_normal(latents[:, 2].shape).astype(np.float32)
    shifted = [latents.copy() for _ in range(2)]
    for sign, x in zip((1, -1), shifted, strict=True):
      x[:, 2] += sign * 1e-2 * way
    squares.append(np.square((actions(shifted[0]) - actions(shifted[1])) / 2e-2).sum(axis=(1, 2)))
  # Both are the squared norm of the Jacobian: over the output's directions here, over the input's there.
  jacobian = np.square(found.gradient[:, 2]) * actions(latents)[0].size
  np.testing.assert_allclose(np.mean(squares, axis=0), jacobian, rtol=0.5)


def test_bad_questions():
  model = WorldModel(tiny.saved())
  with pytest.raises(KairosError, match="reach of actions needs the robot's state"):
    probing.reach(model, VIDEO, "push")
