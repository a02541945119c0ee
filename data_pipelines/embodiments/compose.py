"""How the named cameras of an embodiment become the model's one picture.

single: the camera scaled to fit, its proportions kept, in the middle of black. side_by_side: the first camera fills the
left half, the second the right. one_over_two: the first fills the upper two thirds, the others share the lower third.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_pipelines.embodiments.base import Embodiment
from kairos_jax.errors import KairosError

Box = tuple[int, int, int, int]  # top, left, height, width


def compose(
  embodiment: Embodiment,
  images: Mapping[str, UInt8[np.ndarray, "*T H W 3"]],
  size: tuple[int, int] | None = None,
) -> UInt8[np.ndarray, "*T h w 3"]:
  """The picture, or the video of pictures, that the model sees of the embodiment's cameras.

  Args:
    embodiment: names the cameras and their layout.
    images: by camera name, each of its own size: one image [H, W, 3] or a video [T, H, W, 3] each. Others are ignored.
    size: height and width; None is the embodiment's own.

  Raises:
    KairosError: a camera is missing, or an image is not uint8 RGB.
  """
  if missing := [name for name in embodiment.cameras if name not in images]:
    raise KairosError(
      f"embodiment {embodiment.name!r} needs camera {missing[0]!r}; there are {', '.join(images) or 'none'}"
    )
  videos = [images[name] for name in embodiment.cameras]
  for name, video in zip(embodiment.cameras, videos, strict=True):
    if video.dtype != np.uint8 or video.ndim not in (3, 4) or video.shape[-1] != 3:
      raise KairosError(f"camera {name!r} is {video.dtype} {list(video.shape)}: uint8 [H, W, 3] or [T, H, W, 3]")
  height, width = size or embodiment.picture_size or videos[0].shape[-3:-1]
  if videos[0].shape[-3:-1] == (height, width) and len(videos) == 1:
    return videos[0]
  batches = [video[None] if video.ndim == 3 else video for video in videos]
  picture = np.zeros((len(batches[0]), height, width, 3), np.uint8)
  boxes = _boxes(embodiment, height, width, (videos[0].shape[-3], videos[0].shape[-2]))
  for video, (top, left, rows, columns) in zip(batches, boxes, strict=True):
    picture[:, top : top + rows, left : left + columns] = _resize(video, rows, columns)
  return picture[0] if videos[0].ndim == 3 else picture


def picture_size(embodiment: Embodiment, cameras: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
  """Height and width of what `compose` gives for cameras of these sizes."""
  if embodiment.picture_size is not None:
    return embodiment.picture_size
  if embodiment.cameras[0] not in cameras:
    raise KairosError(
      f"embodiment {embodiment.name!r} needs camera {embodiment.cameras[0]!r}; there are {list(cameras)}"
    )
  height, width = cameras[embodiment.cameras[0]]
  return height, width


def filled(embodiment: Embodiment, cameras: Mapping[str, tuple[int, int]], size: tuple[int, int]) -> float:
  """The share of a picture of this size that the cameras fill; the rest is black."""
  boxes = _boxes(embodiment, *size, cameras[embodiment.cameras[0]])
  return sum(rows * columns for _, _, rows, columns in boxes) / (size[0] * size[1])


def _boxes(embodiment: Embodiment, height: int, width: int, first: tuple[int, int]) -> list[Box]:
  """Where each camera goes; an odd pixel goes to the right or to the bottom."""
  match embodiment.layout:
    case "side_by_side":
      return [(0, 0, height, width // 2), (0, width // 2, height, width - width // 2)]
    case "one_over_two":
      upper, left = 2 * height // 3, width // 2
      return [(0, 0, upper, width), (upper, 0, height - upper, left), (upper, left, height - upper, width - left)]
    case _:
      scale = min(height / first[0], width / first[1])
      rows, columns = max(1, min(height, round(first[0] * scale))), max(1, min(width, round(first[1] * scale)))
      return [((height - rows) // 2, (width - columns) // 2, rows, columns)]


def _resize(video: UInt8[np.ndarray, "T H W 3"], height: int, width: int) -> UInt8[np.ndarray, "T h w 3"]:
  """Linear interpolation; where it shrinks, over all pixels that a new one covers, so that nothing aliases."""
  if video.shape[1:3] == (height, width):
    return video
  size, linear = (width, height), Image.Resampling.BILINEAR
  return np.stack([np.asarray(Image.fromarray(frame).resize(size, linear)) for frame in video])
