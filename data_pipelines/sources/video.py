"""Frames of a video file by time, upright, as RGB; nothing that a header claims is believed or allocated."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from data_pipelines.sources.episode import Frames, LeftOut

MAX_PIXELS = 2**25  # of a frame: 8K
_LONGEST_GAP = 10.0  # seconds without a frame
_TOLERATED = 0.5  # seconds by which a video may end before its file says
_ROUND = 1e-6


@dataclasses.dataclass(frozen=True)
class Description:
  """What a file's first video stream says of itself; only the size has been seen.

  Attributes:
    hz: frames a second, on average.
    height, width: of the first frame, upright.
    seconds: that it lasts, perhaps with its sound; 0 if it does not say.
  """

  hz: float
  height: int
  width: int
  seconds: float


def describe(path: Path) -> Description:
  """Opens a file and decodes one frame.

  Raises:
    LeftOut: it has no video, no rate or no frame, or its frames are too large.
  """
  with _opened(path) as (container, stream):
    hz = _rate(stream)
    seconds = _announced(container, stream) or (container.duration or 0) / av.time_base
    first = next(container.decode(stream), None)
    if first is None:
      raise LeftOut("no frames", str(path))
    height, width = _upright(_bounded(first, path)).shape[:2]
    return Description(hz, height, width, seconds)


def frames(path: Path, hz: float | None = None, start: float = 0.0, size: tuple[int, int] | None = None) -> Frames:
  """The frame nearest to each of the times start, start + 1 / hz, ... in the file, to its end.

  A video of constant rate gives each of its frames once, also where the container rounds times; one of variable rate is
  brought to a constant one. Where the file says that it is to be shown rotated, it is rotated.

  Args:
    path: of the file.
    hz: frames a second; None is the file's average rate.
    start: seconds after the first frame.
    size: height and width to which every picture is scaled by averaging, before it becomes RGB; None leaves them alone.

  Raises:
    LeftOut: no video, a frame without a time, too large or too far from the one before it, times that go back, or an
      end before the one that the file announces.
  """
  with _opened(path) as (container, stream):
    hz = hz or _rate(stream)
    base = stream.time_base or Fraction(1, 1000)
    origin = stream.start_time or 0
    if start > 0:
      container.seek(int(max(0.0, start - 0.5 / hz) / base) + origin, stream=stream, backward=True)
    shown: av.VideoFrame | None = None
    tick, last = 0, -math.inf
    for frame in container.decode(stream):
      if frame.pts is None:
        raise LeftOut("frame without a time", str(path))
      time = float((frame.pts - origin) * base) - start
      if time <= last:
        raise LeftOut("timestamps do not increase", f"{path} has a frame at {time} s after one at {last} s")
      if shown is not None and time - last > _LONGEST_GAP:
        raise LeftOut("gap in the video", f"{path} has no frame from {last:.3f} to {time:.3f} s")
      _bounded(frame, path)
      begins = math.ceil(time * hz - 0.5 - _ROUND)  # the first tick that it is nearest to
      if shown is not None and tick < begins:
        picture = _upright(shown, size)
        while tick < begins:
          yield picture
          tick += 1
      shown, last = frame, time
    ended = start + last + 1 / hz if shown is not None else 0.0
    if _announced(container, stream) - ended > max(_TOLERATED, ended / 20):
      raise LeftOut("video truncated", f"{path} ends after {ended:.2f} of {_announced(container, stream):.2f} s")
    if shown is not None and tick <= math.ceil(last * hz - 0.5 - _ROUND):
      yield _upright(shown, size)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
  if not path.is_file():
    raise LeftOut("video missing", str(path))
  with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
    if not container.streams.video:
      raise LeftOut("no video in the file", str(path))
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    yield container, stream


def _rate(stream: av.VideoStream) -> float:
  value = float(stream.average_rate or stream.guessed_rate or 0)
  if not 0 < value <= 1000:
    raise LeftOut("no frame rate", f"the file says {value} frames a second")
  return value


def _announced(container: av.container.InputContainer, stream: av.VideoStream) -> float:
  """Seconds that the file says the video lasts; 0 if it does not say. Sound may be longer, and is not asked."""
  if stream.duration and stream.time_base:
    return float(stream.duration * stream.time_base)
  alone = len(container.streams) == 1
  return (container.duration or 0) / av.time_base if alone else 0.0


def _bounded(frame: av.VideoFrame, path: Path) -> av.VideoFrame:
  if frame.width * frame.height > MAX_PIXELS:
    raise LeftOut("frames too large", f"{path} has frames of {frame.width} x {frame.height}")
  return frame


def _upright(frame: av.VideoFrame, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "H W 3"]:
  quarters = round(frame.rotation / 90) % 4
  if size is None:
    picture = frame.to_ndarray(format="rgb24")
  else:
    height, width = size[::-1] if quarters % 2 else size
    picture = frame.to_ndarray(format="rgb24", height=height, width=width, interpolation="AREA")
  return np.ascontiguousarray(np.rot90(picture, quarters)) if quarters else picture
