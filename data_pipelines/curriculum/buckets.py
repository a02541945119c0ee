"""Which shape of batch a clip goes to, so that batches have few static shapes and hold little padding.

A bucket is a number of frames, a height and a width. A source's pictures have one size, with sides in multiples of 32
where the stage has a resolution; a clip is filled up to the next length if that wastes little, and else cut to the one
before. Waste is the share of a bucket's pixels that is black border or repeats the last frame.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float64, Int

from data_pipelines import embodiments
from data_pipelines.contents import Contents
from data_pipelines.embodiments import Embodiment
from data_pipelines.sampling import ROUND
from kairos_jax.errors import KairosError

MAX_WASTE = 0.1
MULTIPLE = 32  # of a side, pixels: the VAE's 8, a patch's 2, and another halving
Resolution = Literal["64P", "256P", "480P", "720P"]
# The short side. That of 720P is the multiple of 32 below it (Kairos section 3.1); 64P is for tests and small runs.
SHORT_SIDE = {"64P": 64, "256P": 256, "480P": 480, "720P": 704}


class Bucket(NamedTuple):
  """The shape of a batch's videos."""

  frames: int
  height: int
  width: int


@dataclasses.dataclass(frozen=True)
class Shapes:
  """The shapes that a stage's batches may have.

  Attributes:
    lengths: actions of a sample by its number of frames, N by T. With one length all clips are taken and filled up to
      it; with several, those that are shorter than all of them by more than a little are left out.
    size: a resolution, of which a picture keeps its proportions; or height and width; None leaves each embodiment its
      own, which must then be one.
    image_share: of the samples that are single frames: of the sources whose clips are images, if the mixture has any,
      else of the videos, whose other samples are then longer than one frame.

  Raises:
    KairosError: no length, or a length or share that is out of range.
  """

  lengths: Mapping[int, int]
  size: Resolution | tuple[int, int] | None = None
  image_share: float = 0.0

  def __post_init__(self):
    """Holds it to what is allowed."""
    if not self.lengths or min(self.lengths) < 1 or min(self.lengths.values()) < 0:
      raise KairosError(f"frames and action_steps are {dict(self.lengths)}: at least 1, and at least 0, are allowed")
    if not 0 <= self.image_share <= 1:
      raise KairosError(f"image_share is {self.image_share}: 0 to 1 is allowed")
    if isinstance(self.size, str) and self.size not in get_args(Resolution):
      raise KairosError(f"resolution is {self.size!r}: one of {', '.join(get_args(Resolution))} is allowed")

  def picture(self, embodiment: Embodiment, contents: Contents) -> tuple[int, int]:
    """Height and width of the pictures of a source.

    Raises:
      KairosError: the source has latents, of pictures of another size.
    """
    if of := contents.encoding:
      size = of.height, of.width
      asked = SHORT_SIDE[self.size] if isinstance(self.size, str) else self.size
      if asked not in (None, size, min(size)):
        raise KairosError(f"latents are of {of.height} x {of.width} pixels, and the stage asks for {self.size}")
      return size
    if isinstance(self.size, tuple):
      return self.size
    own = embodiments.picture_size(embodiment, contents.cameras)
    return own if self.size is None else scaled(own, SHORT_SIDE[self.size])


def scaled(size: tuple[int, int], short: int) -> tuple[int, int]:
  """Height and width with this short side, and the proportions of `size` as far as multiples of 32 allow."""
  scale = short / min(size)
  height, width = (max(short, round(side * scale / MULTIPLE) * MULTIPLE) for side in size)
  return height, width


def frames_of(seconds: Float64[np.ndarray, "R"], video_fps: float) -> Int[np.ndarray, "R"]:
  """Frames at `video_fps` that clips have: those that begin before a clip's end."""
  return np.ceil(seconds * video_fps - ROUND).astype(np.int64)


def assign(frames: Int[np.ndarray, "R"], lengths: list[int], filled: float) -> Int[np.ndarray, "R"]:
  """The length of the bucket of each clip; 0 where none wastes little enough.

  Args:
    frames: of the clips.
    lengths: of the buckets, sorted.
    filled: the share of a picture that is no border.
  """
  if len(lengths) == 1:
    return np.full(len(frames), lengths[0])
  sizes = np.array([0, *lengths])
  below = sizes[np.searchsorted(sizes, frames, side="right") - 1]
  above = np.append(sizes, np.iinfo(np.int64).max)[np.searchsorted(sizes, frames, side="left")]
  nearest = np.where(frames * filled >= (1 - MAX_WASTE) * above, above, below)
  return nearest if filled >= 1 - MAX_WASTE else np.zeros_like(nearest)
