"""What each score says of the simulator's own frames, and of frames that are broken in one way."""

import numpy as np
import pytest
from scipy import ndimage

from data_pipelines.simulate.cue_reach import CueReach
from kairos_jax.evaluation import scene_scores
from kairos_jax.evaluation.foresight import arm
from kairos_jax.evaluation.scene_scores import SCORES, Imagined


@pytest.fixture(scope="module")
def film():
  """The expert's episode, and that of an arm that stays."""
  environment = CueReach(48)
  films = []
  for move in (environment.expert, lambda: np.zeros(3)):
    frames = [environment.reset(11).images["front"]]
    for _ in range(11):
      frames.append(environment.step(move())[0].images["front"])
    films.append(np.stack(frames))
  return films


def scored(video, reference):
  one = Imagined(reference[:4], video[4:], reference[4:])
  return {name: score(one) for name, score in SCORES.items()}


def test_what_is_broken_is_seen_by_its_score(film):
  true, idle = film
  whole = scored(true, true)
  floor = np.median(true[0].reshape(-1, 3), axis=0).astype(np.uint8)
  gone = true.copy()
  gone[8:][arm(true)[8:]] = floor
  assert scored(gone, true)["arm"] < whole["arm"] - 0.1
  missing = true.copy()
  missing[6:][scene_scores.video_metrics.has_hue(true, (0.9, 0.12, 0.12))[6:]] = floor
  assert scored(missing, true)["balls"] < whole["balls"] - 0.3
  noisy = np.clip(true.astype(int) + np.random.default_rng(0).integers(-60, 60, true.shape), 0, 255).astype(np.uint8)
  assert scored(noisy, true)["truth"] < 25 < whole["truth"] and scored(noisy, true)["quality"] < whole["quality"] - 0.5
  assert scored(idle, true)["task"] < whole["task"] - 5 and whole["arm"] > 0.9


def test_motion_sharpness_and_diversity(film):
  true, idle = film
  assert scene_scores.motion(true) > scene_scores.motion(idle) >= 0
  blurred = ndimage.uniform_filter(true, (1, 3, 3, 1))
  assert scene_scores.sharpness(blurred) < scene_scores.sharpness(true)
  assert scene_scores.diversity(np.stack([true, true])) == 0 < scene_scores.diversity(np.stack([true, idle]))
