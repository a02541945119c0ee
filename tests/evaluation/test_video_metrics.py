"""Video metrics against their definitions, written out naively."""

import numpy as np
import pytest

from kairos_jax.errors import KairosError
from kairos_jax.evaluation import video_metrics

YELLOW = (0.98, 0.82, 0.12)


def noise(shape=(2, 3, 15, 19, 3), seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_psnr_of_each_frame():
  true = noise()
  got = np.clip(true.astype(int) + np.random.default_rng(1).integers(-31, 32, true.shape), 0, 255).astype(np.uint8)
  values = video_metrics.psnr(got, true)
  assert values.shape == (2, 3)
  want = 10 * np.log10(255**2 / np.mean((got[1, 2].astype(float) - true[1, 2]) ** 2))
  np.testing.assert_allclose(values[1, 2], want, rtol=1e-6)
  assert (video_metrics.psnr(true, true) == 100).all()


def test_ssim_against_its_formula():
  """Wang et al. 2004, equation 13, with a Gaussian window that is cut at 3.5 sigma, away from the borders."""
  from scipy.ndimage import gaussian_filter

  true, got = noise((1, 41, 37, 3)), noise((1, 41, 37, 3), seed=5)
  got = (0.7 * true + 0.3 * got).astype(np.uint8)
  x, y = true[0].astype(float), got[0].astype(float)

  def blur(z):
    return np.stack([gaussian_filter(z[..., c], 1.5, truncate=3.5) for c in range(3)], -1)

  mx, my = blur(x), blur(y)
  vx, vy, vxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
  c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
  full = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
  np.testing.assert_allclose(video_metrics.ssim(got, true), [full[5:-5, 5:-5].mean()], rtol=1e-5)
  np.testing.assert_allclose(video_metrics.ssim(true, true), [1.0])


@pytest.mark.mistakes
def test_videos_that_cannot_be_compared():
  with pytest.raises(KairosError, match="alike"):
    video_metrics.psnr(noise(), noise()[:1])
  with pytest.raises(KairosError, match="must be uint8"):
    video_metrics.ssim(noise().astype(np.float32), noise())
  with pytest.raises(KairosError, match="10 x 19 pixels"):
    video_metrics.ssim(noise()[:, :, :10], noise()[:, :, :10])


@pytest.mark.parametrize("light", [1.0, 0.7])
def test_a_hue_is_found_in_light_and_shade_and_not_in_other_colors(light):
  colors = {
    YELLOW: True,
    (0.90, 0.12, 0.12): False,
    (0.12, 0.28, 0.98): False,
    (0.96, 0.96, 0.96): False,
    (0.27, 0.30, 0.35): False,
  }
  frame = (255 * light * np.array(list(colors), np.float32)).astype(np.uint8)[None, None]  # [1, 1, 5, 3]
  assert video_metrics.has_hue(frame, YELLOW)[0, 0].tolist() == list(colors.values())
  smear = (255 * (0.3 * np.array(YELLOW) + 0.7 * np.array([0.27, 0.30, 0.35]))).astype(np.uint8)
  assert not video_metrics.has_hue(np.broadcast_to(smear, (1, 1, 1, 3)), YELLOW).any()


def test_gray_has_no_hue():
  with pytest.raises(KairosError, match="has no hue"):
    video_metrics.has_hue(noise(), (0.5, 0.5, 0.5))


def test_bright_pixels():
  frame = np.array([[[[191, 255, 255], [192, 191, 255], [192, 193, 255]]]], np.uint8)
  assert video_metrics.is_bright(frame, 0.7529)[0, 0].tolist() == [False, False, True]


def test_found_again():
  true, got = np.zeros((3, 6, 7), bool), np.zeros((3, 6, 7), bool)
  true[0, 2:4, 2:5] = True  # 6 pixels
  got[0, 3:6, 2:5] = True  # 9 pixels, 3 of them right
  true[1] = got[2] = True
  recall, f1 = video_metrics.found_again(got, true)
  np.testing.assert_allclose(recall, [3 / 6, 0, np.nan])
  np.testing.assert_allclose(f1, [2 * 3 / (6 + 9), 0, np.nan])


def test_a_mask_is_widened_along_both_axes_and_not_over_frames_or_borders():
  mask = np.zeros((2, 5, 8), bool)
  mask[0, 0, 7] = mask[1, 3, 2] = True
  wide = video_metrics.widened(mask, 2)
  want = np.zeros_like(mask)
  want[0, :3, 5:] = want[1, 1:, :5] = True
  np.testing.assert_array_equal(wide, want)
  np.testing.assert_array_equal(video_metrics.widened(mask, 0), mask)
