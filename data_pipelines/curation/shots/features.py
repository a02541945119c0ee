"""What shot detection looks at: a few numbers and a thumbnail for each frame, all of one pass over small pictures."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from scipy import fft

SIZE = (36, 64)  # height and width that pictures are looked at in, whatever their proportions
THUMBNAIL = (9, 16)
_HASH_SIDE, _HASH_KEPT = 32, 16  # of the cosine transform
_AT_ONCE = 256  # frames


class Features(NamedTuple):
  """Of T frames. Entry t of a change is between frames t - 1 and t; that of frame 0 is 0.

  Attributes:
    content: mean absolute change of hue (in half degrees), saturation and value (0 to 255), as PySceneDetect's content
      detector scores it.
    correlation: of the luminance histograms; 1 is no change.
    hash: share of a perceptual hash's bits that change.
    brightness: mean of all pixels, 0 to 255.
    detail: mean squared difference of neighboring pixels' luminance. That of a mixture of two pictures is lower than a
      mean of theirs; that of a picture that moves is not.
    thumbnail: the picture at a size where motion within a shot is small.
  """

  content: Float32[np.ndarray, "T"]
  correlation: Float32[np.ndarray, "T"]
  hash: Float32[np.ndarray, "T"]
  brightness: Float32[np.ndarray, "T"]
  detail: Float32[np.ndarray, "T"]
  thumbnail: UInt8[np.ndarray, "T 9 16 3"]


def of_frames(frames: Iterator[UInt8[np.ndarray, "36 64 3"]]) -> Features:
  """Reads a video once; some 600 bytes a frame are kept."""
  parts: list[Features] = []
  before: UInt8[np.ndarray, "1 36 64 3"] | None = None
  for batch in _batched(frames):
    # The frame before the batch goes first, so that the first change is known, and its own entry is dropped.
    parts.append(_of_batch(batch if before is None else np.concatenate([before, batch]), drop=before is not None))
    before = batch[-1:]
  if not parts:
    none = np.zeros(0, np.float32)
    return Features(none, none, none, none, none, np.zeros((0, *THUMBNAIL, 3), np.uint8))
  return Features(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _batched(frames: Iterator[UInt8[np.ndarray, "36 64 3"]]) -> Iterator[UInt8[np.ndarray, "B 36 64 3"]]:
  while batch := list(itertools.islice(frames, _AT_ONCE)):
    yield np.stack(batch)


def _of_batch(pictures: UInt8[np.ndarray, "B 36 64 3"], drop: bool) -> Features:
  rows, columns = SIZE[0] // THUMBNAIL[0], SIZE[1] // THUMBNAIL[1]
  blocks = pictures.reshape(len(pictures), THUMBNAIL[0], rows, THUMBNAIL[1], columns, 3)
  luminance = (pictures @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.float32)
  values = Features(
    content=_first_zero(np.abs(np.diff(hsv(pictures), axis=0)).mean(axis=(1, 2, 3))),
    correlation=_correlations(luminance),
    hash=_first_zero(np.mean(np.diff(_hashes(luminance), axis=0), axis=1)),
    brightness=pictures.mean(axis=(1, 2, 3), dtype=np.float32),
    detail=_roughness(luminance, 1) + _roughness(luminance, 2),
    thumbnail=blocks.mean(axis=(2, 4), dtype=np.float32).round().astype(np.uint8),
  )
  return Features(*(value[1:] for value in values)) if drop else values


def hsv(pictures: UInt8[np.ndarray, "*B H W 3"]) -> Float32[np.ndarray, "*B H W 3"]:
  """Hue in half degrees (0 to 180), saturation and value (0 to 255): OpenCV's units."""
  rgb = pictures.astype(np.float32)
  red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
  value = rgb.max(axis=-1)
  chroma = value - rgb.min(axis=-1)
  divisor = np.where(chroma > 0, chroma, 1)
  sixth = np.where(
    value == red,
    (green - blue) / divisor,
    np.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
  )
  hue = np.where(chroma > 0, sixth % 6 * 30, 0)
  return np.stack([hue, 255 * chroma / np.maximum(value, 1), value], axis=-1)


def _correlations(luminance: Float32[np.ndarray, "B 36 64"]) -> Float32[np.ndarray, "B"]:
  """Of each frame's luminance histogram with that of the frame before it; 1 for the first."""
  count = len(luminance)
  bins = np.clip(luminance, 0, 255).astype(np.int64).reshape(count, -1) + 256 * np.arange(count)[:, None]
  histogram = np.bincount(bins.ravel(), minlength=256 * count).reshape(count, 256).astype(np.float32)
  centered = histogram - histogram.mean(axis=1, keepdims=True)
  norms = np.sqrt((centered**2).sum(axis=1))  # never 0: all bins cannot be equally full
  return np.concatenate([[1], (centered[1:] * centered[:-1]).sum(axis=1) / (norms[1:] * norms[:-1])]).astype(np.float32)


def _roughness(luminance: Float32[np.ndarray, "B 36 64"], axis: int) -> Float32[np.ndarray, "B"]:
  return np.square(np.diff(luminance, axis=axis)).mean(axis=(1, 2))


def _hashes(luminance: Float32[np.ndarray, "B 36 64"]) -> np.ndarray:
  """Which low frequencies are above their median: bool [B, 256]."""
  square = luminance[:, : _HASH_SIDE + 4, ::2][:, 2:-2]  # 32 x 32
  low = fft.dctn(square, axes=(1, 2))[:, :_HASH_KEPT, :_HASH_KEPT].reshape(len(square), -1)
  return low > np.median(low, axis=1, keepdims=True)


def _first_zero(changes: np.ndarray) -> Float32[np.ndarray, "B"]:
  return np.concatenate([[0], changes]).astype(np.float32)
