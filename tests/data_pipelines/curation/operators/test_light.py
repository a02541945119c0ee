"""Measures of pictures whose value is known, and the registry."""

import numpy as np
import pytest

from data_pipelines.curation import operators
from data_pipelines.curation.operators import light
from data_pipelines.curation.operators.view import View
from data_pipelines.curation.shots import footage
from kairos_jax.errors import KairosError
from tests.data_pipelines.conftest import make_clip

WORLD = footage._world(np.random.default_rng(7))


def view(video, fps=20.0, **changes):
  changes = {"state_dim": 0, "action_dim": 0, **changes}
  return View(make_clip(frames=len(video), cameras={"front": np.asarray(video, np.uint8)}, video_fps=fps, **changes))


def pan(step, frames=30):
  return np.stack([WORLD[60:132, step * i + 10 : step * i + 138] for i in range(frames)])


def test_luminance_and_seconds():
  clip = view(np.full((33, 40, 60, 3), 90))
  assert light.luminance(clip) == pytest.approx(90) and light.seconds(clip) == pytest.approx(33 / 20)


def test_a_blurred_picture_scores_lower():
  from scipy import ndimage

  sharp = pan(0)
  blurred = ndimage.gaussian_filter(sharp, (0, 2, 2, 0))
  assert light.blur(view(sharp)) > 5 * light.blur(view(blurred))


@pytest.mark.parametrize("step", [1, 2, 4])
def test_motion_is_that_of_the_camera(step):
  # A pan by `step` of 128 pixels a frame, 20 frames a second.
  assert light.motion(view(pan(step))) == pytest.approx(100 * 20 * step / 128, rel=0.25)


def test_what_stands_still_does_not_move():
  assert light.motion(view(pan(0))) < 0.5 and light.still(view(pan(0))) == 1.0
  assert light.still(view(pan(3))) == 0.0
  assert light.motion(view(np.zeros((9, 30, 40, 3)))) == 0.0 and light.motion(view(pan(0, frames=1))) == 0.0


def test_letterbox_is_the_share_of_the_borders():
  video = pan(2)
  assert light.letterbox(view(video)) < 0.06
  video[:, :12] = video[:, -6:] = 0
  assert light.letterbox(view(video)) == pytest.approx(18 / 72, abs=0.03)
  assert light.letterbox(view(np.full((9, 30, 40, 3), 17))) == 1.0


def test_labels_count_for_a_body_with_actions_only():
  mask = np.array([True, False, False, True])
  clip = make_clip(frames=5, action_mask=mask)
  assert light.labeled(View(clip)) == 0.5
  assert light.labeled(View(make_clip(state_dim=0, action_dim=0))) is None


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (2, 1, 50, 3), (3, 50, 1, 3), (4, 2, 2, 3)])
@pytest.mark.parametrize("name", [name for name in operators.DEFAULT if name != "labeled"])
def test_the_smallest_pictures_have_a_finite_score(name, shape):
  video = np.random.default_rng(0).integers(0, 256, shape)
  assert np.isfinite(operators.OPERATORS[name].make()(view(video)))


def test_bounds_allow_their_ends():
  assert operators.within(1.0, (1.0, 1.0)) and operators.within(None, (5.0, 6.0)) and operators.within(-1e9, (None, 0))
  assert not operators.within(0.99, (1.0, None)) and not operators.within(1.01, (None, 1.0))


def test_every_operator_says_what_it_measures_and_unknown_ones_are_named():
  assert all(operator.about.endswith(".") or "(" in operator.about for operator in operators.OPERATORS.values())
  with pytest.raises(KairosError, match="unknown operator 'sharpness': one of luminance"):
    operators.chosen(["blur", "sharpness"])
