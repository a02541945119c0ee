"""The PCA codec: the laws of codecs, and faithful enough to see what happens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.simulate.physics import Physics
from data_pipelines.simulate.robot import Robot
from kairos_jax.codec import PcaCodec
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.video_metrics import psnr
from tests.codec.base import CodecLaws, moving_balls


def to_uint8(video):
  return np.asarray(jnp.round((video + 1) * 127.5)).astype(np.uint8)


def rebuilt(codec, params, clips):
  return to_uint8(codec.decode(params, codec.encode(params, clips)[0])[0])


class TestPcaCodec(CodecLaws):
  @pytest.fixture(scope="class")
  @classmethod
  def codec(cls):
    return PcaCodec(channels=16)

  @pytest.fixture(scope="class")
  @classmethod
  def params(cls, codec):
    return codec.fit(moving_balls(60, seed=0), 0)

  def test_leading_latents_are_of_unit_scale(self, codec, params):
    leading = codec.encode(params, moving_balls(60, seed=0))[0][:, 1:, ..., :4]
    np.testing.assert_allclose(leading.std(axis=(0, 1, 2, 3)), 1, rtol=1e-2)
    np.testing.assert_allclose(leading.mean(axis=(0, 1, 2, 3)), 0, atol=1e-2)

  def test_unseen_clips_are_recognizable(self, codec, params, clips):
    assert psnr(rebuilt(codec, params, clips), clips).mean() > 27

  def test_the_same_clips_give_the_same_codec(self, codec, params):
    jax.tree.map(np.testing.assert_array_equal, codec.fit(moving_balls(60, seed=0), 0), params)


def test_rendered_clips_are_recognizable():
  makers = {"physics": Physics(48), "robot": Robot(48)}
  clips = {
    name: [m.clip(np.random.default_rng([0, i])).cameras["front"][:21] for i in range(36)] for name, m in makers.items()
  }
  codec = PcaCodec(channels=16)
  params = codec.fit([clip for kind in clips.values() for clip in kind[:30]])
  for name, floor in (("physics", 26.5), ("robot", 25)):  # 28.2 and 26.4 dB with 48 + 48 + 48 clips to fit
    unseen = np.stack(clips[name][30:])
    assert psnr(rebuilt(codec, params, unseen), unseen).mean() > floor, name


def test_channels_without_variance_stay_finite():
  gray, codec = np.full((1, 5, 16, 16, 3), 99, np.uint8), PcaCodec(channels=16)
  params = codec.fit(gray)
  latents, _ = codec.encode(params, gray)
  np.testing.assert_allclose(latents, 0, atol=1e-3)
  np.testing.assert_allclose(codec.decode(params, latents)[0], 99 / 127.5 - 1, atol=1e-3)


@pytest.mark.parametrize("channels", [0, -1, 193])
def test_channels_out_of_range_are_refused(channels):
  with pytest.raises(KairosError, match=f"codec.channels is {channels}; allowed: 1 to 192"):
    PcaCodec(channels=channels)
