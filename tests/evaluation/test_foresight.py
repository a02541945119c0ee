"""Foresight against its definition: what is seen, what is imagined, and the frame that stays beside it."""

import numpy as np
import pytest

from data_pipelines.simulate.cue_reach import CueReach
from data_pipelines.simulate.filming import simulated_clip
from kairos_jax import seeds
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import foresight, video_metrics
from kairos_jax.evaluation.foresight import Foresight, Quality
from kairos_jax.runtime import WorldModel
from tests import tiny


@pytest.fixture(scope="module")
def model(tiny_saved):
  return WorldModel(tiny_saved)


def test_every_frame_is_held_against_the_true_one(model):
  video = np.stack([tiny.frames(21, seed=i) for i in range(3)])
  texts = ["push", "pull", "wait"]
  result = foresight.foresee(model, video, texts, mark=lambda x: x[..., 0] > 200)
  stream, segments = model.prefill(video[:, :5], texts), []
  for index in range(4):
    latents = model.imagine_latents(stream, 1, seed=seeds.derive(0, "rollout", index))
    pixels, stream = model.decode(stream, latents)
    segments.append(pixels)
    stream = model.extend_latents(stream, latents)
  want = np.concatenate(segments, axis=1)
  np.testing.assert_array_equal(result.imagined, want)
  future, still = video[:, 5:], np.repeat(video[:, 4:5], 16, axis=1)
  assert result.model.psnr.shape == (3, 16) and result.fps == 10.0
  np.testing.assert_allclose(result.model.psnr, video_metrics.psnr(want, future))
  np.testing.assert_allclose(result.still.ssim, video_metrics.ssim(still, future))
  np.testing.assert_allclose(result.still.found[2, 7], (still[2, 7, ..., 0] > 200)[future[2, 7, ..., 0] > 200].mean())
  near = video_metrics.widened(want[..., 0] > 200, 2)
  np.testing.assert_allclose(result.model.near[1, 3], near[1, 3][future[1, 3, ..., 0] > 200].mean())
  assert (result.model.f1 <= 1).all()


def test_the_gain_is_a_mean_over_clips_with_its_interval():
  rng = np.random.default_rng(0)
  quality = lambda psnr: Quality(psnr, psnr, psnr, psnr, psnr)  # noqa: E731
  still = rng.normal(24, 3, (48, 16))
  model = still + 1.7 + rng.normal(0, 0.8, (48, 1))
  gain = Foresight(np.zeros((48, 16, 2, 2, 3), np.uint8), quality(model), quality(still), 10.0).gain()
  assert gain.value == pytest.approx((model - still).mean())
  assert 1.2 < gain.low < gain.value < gain.high < 2.2  # clips differ much more than their gains do


def test_clips_are_as_long_as_the_codec_asks_and_long_enough(model, monkeypatch):
  asked = []

  def generate(kind, count, seed, size):
    asked.append((kind, count, seed, size))
    for i in range(count):
      yield simulated_clip(
        list(tiny.frames(25 - 9 * (i == 2))), source="robot", embodiment="slide_arm", caption="", instruction="go"
      )

  monkeypatch.setattr(foresight, "generate", generate)
  video, texts = foresight.unseen_clips(model, 2)
  assert video.shape == (2, 21, 16, 16, 3) and texts == ["go", "go"]
  ((kind, count, seed, size),) = asked
  assert (kind, count, size) == ("robot", 2, 16) and seed > 10**9
  with pytest.raises(KairosError, match="has 16 frames; 21 are needed"):
    foresight.unseen_clips(model, 3)


def test_the_arms_pixels_are_those_that_change_when_the_arm_is_taken_away():
  """Nothing else is taken for the arm, and hardly a pixel of it is missed, wherever it is."""
  environment = CueReach(48)
  table, geoms = environment.table, [f"arm{i}" for i in range(2)]
  ids = [table.model.geom(name).id for name in geoms]
  for seed in range(4):
    environment.reset(seed)
    for _ in range(8 * (seed % 3)):
      environment.step(environment.expert())
    with_arm = table.render()
    table.model.geom_rgba[ids, 3] = 0
    without = table.render()
    table.model.geom_rgba[ids, 3] = 1
    true = np.abs(with_arm.astype(int) - without).max(axis=-1) > 40
    found = foresight.arm(with_arm[None])[0]
    assert not (found & ~true).any()
    assert (found & true).sum() > 0.75 * true.sum() > 10
