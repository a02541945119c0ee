"""A value on episodes whose end is told by their pictures, or by nothing."""

import json

import numpy as np
import pytest

from data_pipelines.simulate.filming import episode_clip
from kairos_jax import probing
from kairos_jax.cli import main as cli
from kairos_jax.errors import KairosError
from kairos_jax.interop import saved_model
from kairos_jax.probing.value import Value
from kairos_jax.replay import Origin, Replay
from kairos_jax.runtime import WorldModel
from tests import tiny

EPISODES = 160


def episodes(shows):
  """Videos of 5 to 17 frames of noise. Where they `show` how they end, those of failures are darker after 4 frames."""
  rng = np.random.default_rng(0)
  success = rng.random(EPISODES) < 0.5
  videos = [tiny.frames(int(rng.integers(5, 18)), seed=i) for i in range(EPISODES)]
  for video, good in zip(videos, success, strict=True):
    if shows and not good:
      video[4:] //= 3
  return videos, success


@pytest.fixture(scope="module")
def model(tiny_saved):
  return WorldModel(tiny_saved)


def test_what_the_video_shows_is_told_and_what_it_does_not_is_not(model):
  found, blind = [probing.value(model, *_with_words(*episodes(shows))) for shows in (True, False)]
  assert found.gain().low > 0.04
  assert found.brier(found.clock).mean() > 0.2  # who had seen an episode would know it by its length
  errors = (found.head - found.success[:, None]) ** 2
  assert errors[:, 0].mean() > 0.2 > 0.15 > np.nanmean(errors[:, 3:])  # at first nothing is shown
  assert blind.gain().value < 0.03  # a head that has fitted noise would be worse than the clock, never better
  ends = [np.isfinite(found.head[i]).sum() for i in range(EPISODES)]
  assert ends == [(len(video) - 1) // 4 + 1 for video in episodes(True)[0]]


def test_bins_and_errors_are_what_they_say():
  head = np.array([[0.25, 0.25], [0.25, np.nan], [0.25, 0.25], [0.85, np.nan]])
  found = Value(head, np.full((4, 2), 0.5), np.array([True, False, False, True]), 2.0)
  np.testing.assert_allclose(found.brier(found.head), np.array([2 * 0.75**2, 0.25**2, 2 * 0.25**2, 0.15**2]) / 1.5)
  low, high = found.bins()
  assert (low.told, low.share, high.share) == (0.25, 5 / 6, 1 / 6) and low.came.value == pytest.approx(2 / 5)
  assert found.calibration_error() == pytest.approx(5 / 6 * (2 / 5 - 0.25) + 0.15 / 6)
  errors = found.report()["brier"]
  assert errors["clock"] == pytest.approx(0.25) == errors["rate"]
  assert found.plot().get_xlabel() == "success told" and found.plot_time().get_xlabel() == "seconds"


def test_too_few_of_one_outcome(model):
  videos, success = episodes(True)
  with pytest.raises(KairosError, match="0 of 160 episodes succeed; 5 of each outcome are needed"):
    probing.value(model, *_with_words(videos, np.zeros_like(success)))


def test_command(tmp_path, tiny_saved):
  videos, success = episodes(True)
  saved_model.save(tmp_path / "model", tiny_saved)
  name = saved_model.content_hash(tiny_saved)
  for seed, (video, good) in enumerate(zip(videos, success, strict=True)):
    origin = Origin(name, "cue_reach", seed, bool(good))
    clip = episode_clip(
      [{"front": frame} for frame in video],
      list(np.zeros((len(video), 3), np.float32)),
      list(np.zeros((len(video) - 1, 3), np.float32)),
      source="rollouts",
      embodiment="slide_arm",
      license="CC0-1.0",
      caption="",
      instruction="touch",
      provenance={"origin": origin._asdict()},
    )
    Replay(tmp_path / "replay").add(clip, origin)
  line = ["value", f"--model={tmp_path}/model", f"--replay={tmp_path}/replay", f"--out={tmp_path}/out"]
  assert cli.main(line) == 0
  report = json.loads((tmp_path / "out" / "report.json").read_text())
  assert report["episodes"] == EPISODES and report["brier"]["head"] < report["brier"]["clock"]
  assert (tmp_path / "out" / "value.png").stat().st_size > 5000
  assert cli.main([*line, "--env=cue_reach:moving"]) == 2


def _with_words(videos, success):
  return videos, ["touch"] * len(videos), success
