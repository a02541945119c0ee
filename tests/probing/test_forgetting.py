"""Theorem 1's measurement: on labels that are known or not, on windows of films, and on towers."""

import numpy as np
import pytest

from kairos_jax import probing
from kairos_jax.errors import KairosError
from kairos_jax.probing import forgetting
from kairos_jax.probing.theory import forgotten_gap
from kairos_jax.runtime import WorldModel
from tests import tiny

pytest.importorskip("sklearn", reason="scikit-learn is not installed: it is in the extra `notebook`")
DELAYS = (0, 8, 20)


@pytest.fixture(scope="module")
def waits():
  return probing.film(16, DELAYS, colors=4, scenes=6)


@pytest.fixture(scope="module")
def model():
  return WorldModel(tiny.saved(tiny.model_config(layers=("SWA", "SWA"), video_frames=1)))


@pytest.mark.parametrize("classes", [2, 5])
def test_the_risk_of_what_is_known_and_of_what_is_not(classes):
  rng = np.random.default_rng(0)
  labels = np.tile(np.arange(classes), 16)
  groups = np.repeat(np.arange(16), classes)
  known = np.eye(classes)[labels] + 0.01 * rng.standard_normal((len(labels), classes))
  assert forgetting.risk(known, labels, groups) < 0.01
  scene = rng.standard_normal((16, 6))[groups]  # tells the scene, and so which label is left to be told, but no label
  assert forgetting.risk(scene, labels, groups) == pytest.approx(forgotten_gap(classes), rel=0.02)


def test_films_are_as_long_as_the_longest_wait(waits):
  assert waits.frames.shape == (3 * 6 * 4, 29, 16, 16, 3)
  assert waits.decided.max() == 28 and sorted(set(waits.decided - waits.delay)) == [8]
  one = (waits.delay == 20) & (waits.scene == 2)
  first, second = waits.frames[one][:2]
  assert (first[0] != second[0]).any() and (first[5:] == second[5:]).all()


@pytest.mark.parametrize("window, forgotten", [(1, [True] * 3), (3, [False, True, True]), (None, [False] * 3)])
def test_the_gap_of_a_window_is_the_closed_form(model, waits, window, forgotten):
  """At the decision after 0 frames of delay latents 0 to 2 were seen, the cue in 0 and 1; after 8, two latents more."""
  gap = probing.window_gap(model, waits, window)
  np.testing.assert_array_equal(gap.closed, np.where(forgotten, 0.75, 0.0))
  np.testing.assert_allclose(gap.risk, gap.closed, atol=0.03)
  assert gap.plot().get_xlabel() == "delay, frames"


def test_the_gap_of_an_action_is_its_variance_over_colors(model, waits):
  """Of the expert's action at the decision; a window that holds the cue is at most a quarter of that off."""
  forgets, knows = (probing.window_gap(model, waits, window, of="action") for window in (1, None))
  rows = (waits.delay == 8) & (waits.scene == 0)
  assert forgets.closed.min() > 0.1 and not knows.closed.any() and np.ptp(waits.action[rows], axis=0).max() > 0.5
  np.testing.assert_allclose(forgets.risk, forgets.closed, rtol=0.1)
  assert (knows.risk < 0.25 * forgets.closed).all()


def test_a_tower_of_windows_keeps_nothing_beyond_its_reach(model, waits):
  reach = probing.action_reach(model.saved.model_config)
  assert reach == 1 and forgetting.longest_delay(reach, 4) == 0
  gap = probing.tower_gap(model, waits, reach)
  np.testing.assert_array_equal(gap.closed, [0, 0.75, 0.75])
  assert gap.risk[0] < 0.4
  np.testing.assert_allclose(gap.risk[1:], 0.75, atol=0.03)


def test_windows_are_of_one_frame_at_least(model, waits):
  with pytest.raises(KairosError, match="window is 0 latent frames"):
    probing.window_gap(model, waits, 0)
