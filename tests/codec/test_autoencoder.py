"""The learned codec: the laws of codecs, and what it is for: few channels, and what stands still stays."""

import jax
import numpy as np
import pytest

from kairos_jax.codec import Autoencoder, PcaCodec, autoencoder
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.video_metrics import psnr
from tests.codec.base import CodecLaws, moving_balls
from tests.codec.test_pca import to_uint8

CODEC = Autoencoder(channels=4, width=16, steps=160)


@pytest.fixture(scope="module")
def training_clips():
  return moving_balls(30, seed=0, frames=17)


class TestAutoencoder(CodecLaws):
  @pytest.fixture(scope="class")
  @classmethod
  def codec(cls):
    return CODEC

  @pytest.fixture(scope="class")
  @classmethod
  def params(cls, codec, training_clips):
    return codec.fit(training_clips, 3)

  def test_latents_have_mean_0_and_variance_1_over_the_training_clips(self, codec, params, training_clips):
    latents, _ = codec.encode(params, training_clips)
    np.testing.assert_allclose(latents.mean((0, 1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(latents.std((0, 1, 2, 3)), 1, atol=1e-4)

  def test_the_state_is_the_last_picture(self, codec, params, clips):
    latents, picture = codec.encode(params, clips[:, :5])
    np.testing.assert_array_equal(to_uint8(picture), clips[:, 4])
    later, end = codec.encode(params, clips[:, 5:], picture)
    np.testing.assert_array_equal(to_uint8(end), clips[:, 8])
    video, last = codec.decode(params, later, picture)
    np.testing.assert_array_equal(last, video[:, -1])

  def test_it_beats_a_pca_of_as_many_channels_and_a_frame_that_stays(self, codec, params, clips, training_clips):
    """On clips of another seed, with clean latents and with latents as wrong as imagined ones are."""
    pca = PcaCodec(codec.channels)
    bases = pca.fit(training_clips)
    picture = codec.encode(params, clips[:, :5])[1]
    stays = psnr(np.repeat(clips[:, 4:5], 4, axis=1), clips[:, 5:]).mean()
    rng = np.random.default_rng(0)
    for noise in (0.0, 0.4):
      scores = []
      for one, weights, state in ((codec, params, picture), (pca, bases, ())):
        latents = one.encode(weights, clips[:, 5:], state)[0]
        latents = latents + noise * rng.standard_normal(latents.shape).astype(np.float32)
        scores.append(psnr(to_uint8(one.decode(weights, latents, state)[0]), clips[:, 5:]).mean())
      assert scores[0] > max(scores[1], stays) + 1.0, (noise, scores, stays)  # dB


@pytest.mark.slow
def test_the_same_clips_and_seed_give_the_same_codec(training_clips):
  codec = Autoencoder(channels=2, width=8, steps=20)
  one, other = (codec.fit(training_clips, 3) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_clips_of_different_lengths_give_as_many_pieces_as_they_hold():
  clips = [moving_balls(1, seed=i, frames=frames)[0] for i, frames in enumerate((17, 25, 13, 21))]
  pieces = autoencoder._pieces(clips)
  want = [clips[i][start : start + 17] for i, start in ((0, 0), (1, 0), (1, 4), (1, 8), (3, 0), (3, 4))]
  np.testing.assert_array_equal(pieces, np.stack(want))


def test_clips_that_are_too_short_for_a_chain_are_refused():
  with pytest.raises(KairosError, match="no clip has the 17 frames"):
    CODEC.fit(moving_balls(2, seed=0, frames=13), 0)


def test_an_option_below_1_is_refused():
  with pytest.raises(KairosError, match="codec.channels is 0"):
    Autoencoder(channels=0)
