"""From an episode to clips: read once, cut to a length, scaled and thinned on the way; one clip is in memory."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_pipelines import embodiments
from data_pipelines.records import Clip
from data_pipelines.sources.episode import Episode, Frames, LeftOut, Origin, Span, known
from kairos_jax.errors import KairosError

MAX_BYTES = 2**28  # of a clip's pixels
_ROUND = 1e-6  # of a frame: what rounding may take from a time that falls on a frame's own
Pictures = dict[str, UInt8[np.ndarray, "H W 3"]]


@dataclasses.dataclass(frozen=True)
class Cut:
  """How episodes become clips.

  Attributes:
    size: of the pictures, pixels: the shorter side, or (height, width) with black where the proportions differ; None
      leaves them alone.
    video_fps: frames a second that are kept; None keeps all. States and actions keep their own rate.
    max_seconds: of a clip; a longer span is cut into clips of nearly equal length.

  Raises:
    KairosError: a number is out of range.
  """

  size: int | tuple[int, int] | None = None
  video_fps: float | None = None
  max_seconds: float = 40.0

  def __post_init__(self):
    """Holds the numbers to their ranges."""
    sides = self.size if isinstance(self.size, tuple) else (self.size,)
    if any(side is not None and side < 1 for side in sides):
      raise KairosError(f"size is {self.size}: at least 1 pixel is required")
    for key in ("video_fps", "max_seconds"):
      value = getattr(self, key)
      if value is not None and not (math.isfinite(value) and value > 0):
        raise KairosError(f"{key} is {value}: a positive number is required")


def clips(episode: Episode, origin: Origin, cut: Cut) -> Iterator[Clip]:
  """The clips of one episode.

  A clip holds at most `MAX_BYTES` of pixels and `cut.max_seconds`. A clip of several begins with a frame of the
  episode, so that its frames, states and actions all begin at 0 s.

  Raises:
    LeftOut: the episode is damaged; the clips given before are whole.
  """
  if not (math.isfinite(episode.hz) and episode.hz > 0):
    raise LeftOut("no frame rate", f"it has {episode.hz} frames a second")
  state, state_mask = known(episode.state)
  action, action_mask = known(episode.action)
  stream = _Stream(episode.cameras, cut)
  for span in episode.spans:
    if span.start < stream.position or span.end is not None and span.end <= span.start:
      raise LeftOut("spans overlap or are empty", f"frames {span.start} to {span.end} after {stream.position}")
    stream.skip(span.start - stream.position)
    for start, videos in _cut(stream, span, episode.hz, cut):
      stop = stream.position
      yield Clip(
        cameras=videos,
        video_fps=_kept_rate(episode.hz, cut),
        action_hz=float(episode.hz),
        state=state[start:stop],
        action=action[start:stop],
        state_mask=state_mask[start:stop],
        action_mask=action_mask[start:stop],
        embodiment=origin.embodiment.name,
        source=origin.name + episode.variant,
        license=origin.license,
        caption=span.caption,
        instruction=span.instruction,
        paraphrases=span.paraphrases,
        provenance={
          "format": origin.kind,
          "episode": episode.name,
          "frames": [start, stop],
          "seconds": [start / episode.hz, stop / episode.hz],
          **episode.provenance,
        },
      )


class _Stream:
  """The pictures of all cameras, in step."""

  def __init__(self, cameras: Mapping[str, Frames], cut: Cut):
    self._cameras, self._cut = cameras, cut
    self.position = 0

  def next(self, wanted: bool) -> Pictures | None:
    """The next frame of every camera, scaled if it is wanted; None once a camera has ended."""
    pictures: Pictures = {}
    for name, frames in self._cameras.items():
      picture = next(frames, None)
      if picture is None:
        return None
      if wanted:
        pictures[name] = _scaled(picture, self._cut.size)
    self.position += 1
    return pictures

  def skip(self, count: int) -> None:
    for _ in range(count):
      if self.next(wanted=False) is None:
        raise LeftOut("video too short", f"it ends after {self.position} frames")


def _cut(stream: _Stream, span: Span, hz: float, cut: Cut) -> Iterator[tuple[int, Pictures]]:
  """The first frame, and the videos, of every clip of a span; the stream then stands at the clip's end."""
  longest = max(1, math.floor(cut.max_seconds * hz + _ROUND))
  while span.end is None or stream.position < span.end:
    start = stream.position
    kept: list[Pictures] = []
    limit = longest
    step = hz / _kept_rate(hz, cut)
    for index in itertools.count():
      if span.end is not None and start + index >= span.end or index >= limit:
        break
      wanted = index == math.floor(len(kept) * step + _ROUND)
      pictures = stream.next(wanted)
      if pictures is None:
        if span.end is not None:
          raise LeftOut("video too short", f"it ends after {stream.position} of {span.end} frames")
        break
      if wanted:
        kept.append(pictures)
      if index == 0:
        room = max(1, math.floor(MAX_BYTES / sum(picture.nbytes for picture in pictures.values()) * step))
        limit = min(longest, room)
        left = (span.end or span.announced) - start
        if left > limit:  # nearly equal lengths, so that no clip of a frame or two is left
          limit = math.ceil(left / math.ceil(left / limit))
    if not kept:
      if start == span.start:
        raise LeftOut("no frames", f"the video has no frame {start}")
      return
    yield start, {name: _stack([pictures[name] for pictures in kept], name) for name in kept[0]}
    if stream.position < start + limit:
      return


def _kept_rate(hz: float, cut: Cut) -> float:
  return float(hz if cut.video_fps is None else min(hz, cut.video_fps))


def _stack(pictures: list[UInt8[np.ndarray, "_ _ 3"]], name: str) -> UInt8[np.ndarray, "T H W 3"]:
  if len(sizes := {picture.shape for picture in pictures}) > 1:
    raise LeftOut("frames change their size", f"camera {name} has frames of {sorted(sizes)}")
  return np.stack(pictures)


def _scaled(picture: UInt8[np.ndarray, "H W 3"], size: int | tuple[int, int] | None) -> UInt8[np.ndarray, "h w 3"]:
  height, width = picture.shape[:2]
  if size is None:
    return picture
  if isinstance(size, tuple):
    return embodiments.picture("none", {"front": picture}, size)
  if min(height, width) == size:
    return picture
  scale = size / min(height, width)
  shape = max(1, round(width * scale)), max(1, round(height * scale))
  return np.asarray(Image.fromarray(picture).resize(shape, Image.Resampling.BILINEAR))
