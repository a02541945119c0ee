"""The carrying codec: the laws of codecs, and what it is for: what stands still stays."""

import jax
import numpy as np
import pytest

from kairos_jax.codec import CarryCodec, PcaCodec
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.video_metrics import psnr
from tests.codec.base import CodecLaws, moving_balls
from tests.codec.test_pca import to_uint8

CODEC = CarryCodec(channels=8, width=16, steps=60)


class TestCarryCodec(CodecLaws):
  @pytest.fixture(scope="class")
  @classmethod
  def codec(cls):
    return CODEC

  @pytest.fixture(scope="class")
  @classmethod
  def params(cls, codec):
    return codec.fit(moving_balls(30, seed=0, frames=17), 3)

  def test_the_same_clips_and_seed_give_the_same_codec(self, codec, params):
    again = codec.fit(moving_balls(30, seed=0, frames=17), 3)
    jax.tree.map(np.testing.assert_array_equal, again, params)

  def test_what_was_seen_helps_to_decode_what_comes(self, codec, params, clips):
    """The same latents, decoded by the PCA alone and beside the last true picture, with noise and without."""
    latents, picture = codec.encode(params, clips[:, :5])
    later, end = codec.encode(params, clips[:, 5:], picture)
    np.testing.assert_array_equal(to_uint8(picture), clips[:, 4])
    np.testing.assert_array_equal(to_uint8(end), clips[:, 8])
    for noise, gain in ((0.0, 0.3), (1.0, 3.0)):  # dB
      noisy = later + noise * np.random.default_rng(0).standard_normal(later.shape).astype(np.float32)
      alone, _ = PcaCodec(codec.channels).decode(params, noisy, ())
      beside, last = codec.decode(params, noisy, picture)
      assert psnr(to_uint8(beside), clips[:, 5:]).mean() > psnr(to_uint8(alone), clips[:, 5:]).mean() + gain
      np.testing.assert_allclose(last, beside[:, -1])


def test_clips_that_are_too_short_for_a_chain_are_refused():
  with pytest.raises(KairosError, match="no clip has the 17 frames"):
    CODEC.fit(moving_balls(2, seed=0, frames=13), 0)
