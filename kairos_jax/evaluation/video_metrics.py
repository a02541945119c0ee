"""How near one video is to another, frame by frame: PSNR, SSIM, and how much of a colored thing is found again."""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from skimage import metrics

from kairos_jax.errors import KairosError

Video = UInt8[np.ndarray, "*B T H W 3"]

MAX_PSNR = 100.0  # dB, of frames that are equal
_HUE_SHARE = 0.5  # of the color's own contrast, from which on a pixel has its hue


def psnr(got: Video, true: Video) -> Float[np.ndarray, "*B T"]:
  """Peak signal-to-noise ratio of each frame, dB. Raises KairosError for videos of two shapes, or not of uint8."""
  _check(got, true)
  error = np.square(got.astype(np.float32) - true.astype(np.float32)).mean(axis=(-3, -2, -1), dtype=np.float64)
  return np.minimum(10 * np.log10(255.0**2 / np.maximum(error, 1e-12)), MAX_PSNR)


def ssim(got: Video, true: Video) -> Float[np.ndarray, "*B T"]:
  """Structural similarity of each frame, at most 1, with the Gaussian window of Wang et al. 2004 (scikit-image).

  Raises:
    KairosError: the videos have two shapes, are not uint8, or are smaller than the window of 11 pixels.
  """
  _check(got, true)
  if min(got.shape[-3:-1]) < 11:
    raise KairosError(f"SSIM: frames of {got.shape[-3]} x {got.shape[-2]} pixels; they must be at least 11 x 11")
  settings = dict(channel_axis=-1, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
  flat = (x.reshape(-1, *x.shape[-3:]) for x in (got, true))
  values = [metrics.structural_similarity(a, b, **settings) for a, b in zip(*flat, strict=True)]
  return np.asarray(values, np.float64).reshape(got.shape[:-3])


def has_hue(frames: Video, color: tuple[float, float, float]) -> Bool[np.ndarray, "*B T H W"]:
  """Which pixels have the hue of `color` (red, green, blue in 0 .. 1), under any light that is not too dim.

  Gray is taken off a pixel, as it is off the color: what remains must point the color's way, and be at least half as
  strong along it. So a yellow arm's shaded side counts, its white tip and a washed-out smear of it do not.
  """
  direction = np.asarray(color, np.float32) - np.mean(color, dtype=np.float32)
  contrast = float(np.linalg.norm(direction))
  if contrast < 0.1:
    raise KairosError(f"color {tuple(color)} is gray: it has no hue to be found again by")
  chroma = frames.astype(np.float32) / 255
  chroma = chroma - chroma.mean(axis=-1, keepdims=True)
  along = chroma @ (direction / contrast)
  across = np.linalg.norm(chroma, axis=-1)
  return (along >= _HUE_SHARE * contrast) & (along >= 0.8 * across)


def is_bright(frames: Video, level: float) -> Bool[np.ndarray, "*B T H W"]:
  """Which pixels have all of red, green and blue at `level` (0 .. 1) or above, as those of white things."""
  return frames.min(axis=-1) >= round(255 * level)


def found_again(
  got: Bool[np.ndarray, "*B T H W"], true: Bool[np.ndarray, "*B T H W"]
) -> tuple[Float[np.ndarray, "*B T"], Float[np.ndarray, "*B T"]]:
  """Of each frame: the share of the true mask's pixels that `got` holds too, and the F1 score of the two masks.

  The share alone can be won by a mask that is everywhere; F1 cannot. Both are NaN in a frame whose true mask is empty.
  """
  both, wanted, held = ((x.sum(axis=(-2, -1)).astype(np.float64)) for x in (got & true, true, got))
  with np.errstate(invalid="ignore"):
    recall = both / wanted
    f1 = np.where(wanted > 0, 2 * both / (wanted + held), np.nan)
  return recall, f1


def widened(mask: Bool[np.ndarray, "*B T H W"], pixels: int) -> Bool[np.ndarray, "*B T H W"]:
  """The mask with all that is at most so many pixels from it, along both axes."""
  size = (1,) * (mask.ndim - 2) + (2 * pixels + 1,) * 2
  return ndimage.maximum_filter(mask, size=size, mode="constant")


def _check(got: Video, true: Video) -> None:
  if got.shape != true.shape or got.ndim < 4 or got.shape[-1] != 3 or not got.dtype == true.dtype == np.uint8:
    raise KairosError(
      f"videos are {got.dtype} {got.shape} and {true.dtype} {true.shape}; both must be uint8 [..., T, H, W, 3], alike"
    )
