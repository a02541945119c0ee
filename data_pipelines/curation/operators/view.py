"""What operators see of a clip: its first camera, sampled and scaled once for all of them."""

import functools

import numpy as np
from jaxtyping import Float32, Int, UInt8
from PIL import Image

from data_pipelines.records import Clip

GRAY_WIDTH = 128
STILLS = 5


class View:
  """Of one clip. Everything is computed on first use and then kept."""

  def __init__(self, clip: Clip):
    self.clip = clip
    self.video: UInt8[np.ndarray, "T H W 3"] = next(iter(clip.cameras.values()))

  def ticks(self, hz: float) -> Int[np.ndarray, "N"]:
    """The frames in force at times 0, 1 / hz, ...; all of them where the clip has fewer a second."""
    step = max(1.0, self.clip.video_fps / hz)
    return np.floor(np.arange(0, len(self.video), step) + 1e-6).astype(int)

  @functools.cached_property
  def gray(self) -> Float32[np.ndarray, "N h w"]:
    """Luminance (0 to 255) of four frames a second, 128 pixels wide at most."""
    height, width = self.video.shape[1:3]
    scale = min(1.0, GRAY_WIDTH / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    frames = [Image.fromarray(self.video[tick]).convert("L") for tick in self.ticks(4)]
    return np.stack([np.asarray(frame.resize(size, Image.Resampling.BOX), np.float32) for frame in frames])

  @functools.cached_property
  def stills(self) -> UInt8[np.ndarray, "N H W 3"]:
    """Five frames, evenly spread; fewer of a shorter clip."""
    count = min(STILLS, len(self.video))
    return self.video[((np.arange(count) + 0.5) * len(self.video) / count).astype(int)]
