"""Shot detectors over `Features`: those of PySceneDetect, and passes for flashes and dissolves, which it lacks.

A detector gives the transitions it sees; thresholds are PySceneDetect 0.7's own unless it says otherwise. The package
itself (BSD-3-Clause, https://www.scenedetect.com) is only needed by the test that compares the two.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.lib.stride_tricks import sliding_window_view

from data_pipelines.curation.shots.features import Features


class Transition(NamedTuple):
  """The shot before it ends at frame `start`, exclusive; the next one begins at `end`. Equal for a hard cut."""

  start: int
  end: int
  kind: str

  @property
  def middle(self) -> int:
    """A single frame for it."""
    return (self.start + self.end + 1) // 2


def content(features: Features, threshold: float = 27.0) -> list[Transition]:
  """Cuts where hue, saturation and value change by `threshold` on average."""
  return _cuts(features.content >= threshold, "content")


def adaptive(features: Features, ratio: float = 3.0, least: float = 15.0, window: int = 2) -> list[Transition]:
  """Cuts where the change is `ratio` times that of `window` frames on either side, and at least `least`."""
  return _cuts(_stands_out(features.content, ratio, least, window), "adaptive")


def histogram(features: Features, threshold: float = 0.05) -> list[Transition]:
  """Cuts where the luminance histograms of neighbors correlate to less than 1 - `threshold`."""
  return _cuts(features.correlation <= 1 - threshold, "histogram")


def perceptual(features: Features, threshold: float = 0.395) -> list[Transition]:
  """Cuts where this share of a perceptual hash's bits changes."""
  return _cuts(features.hash >= threshold, "perceptual")


def fades(features: Features, threshold: float = 12.0) -> list[Transition]:
  """Fades through black: as long as the picture is darker than `threshold`, between two that are not."""
  dark = np.concatenate([[0], (features.brightness < threshold).astype(np.int8), [0]])
  starts, ends = np.flatnonzero(np.diff(dark) == 1), np.flatnonzero(np.diff(dark) == -1)
  return [
    Transition(int(start), int(end), "fade")
    for start, end in zip(starts, ends, strict=True)
    if start > 0 and end < len(features.brightness)
  ]


def dissolves(
  features: Features,
  lengths: tuple[int, ...] = (10, 12, 14, 16, 20, 24, 28, 32, 40),
  distance: float = 20.0,
  residual: float = 0.35,
  dip: float = 0.75,
) -> list[Transition]:
  """Stretches in which one picture becomes another by mixing.

  Each frame between lies near the line from the first to the last, its share of the last grows evenly, and it has less
  detail than either: a mixture of shares 1 - w and w lacks w (1 - w) of the two pictures' squared differences of
  neighboring pixels. A camera that pans fills the first conditions at times, but not the last.

  Args:
    features: of the video.
    lengths: of a dissolve that are tried, frames.
    distance: mean absolute difference of first and last thumbnail, at least, of 255.
    residual: how far from the line the frames between may be, relative to its length, root mean square.
    dip: the least share of the detail that a mixture lacks which is lacking, fitted over all frames between.
  """
  if not len(features.thumbnail):
    return []
  pictures = features.thumbnail.reshape(len(features.thumbnail), -1).astype(np.float32)
  found: list[tuple[float, Transition]] = []
  for length in lengths:
    if len(pictures) <= length + 1:
      continue
    first, last = pictures[: -length - 1], pictures[length + 1 :]
    jump = np.abs(last - first).mean(axis=1)
    lacking = _lacking(features.detail, length)
    cut_inside = sliding_window_view(features.content[1:], length + 1).max(axis=1) >= 0.5 * jump + 12
    for start in np.flatnonzero((jump >= distance) & (lacking >= dip) & ~cut_inside):
      line = last[start] - first[start]
      square = float(line @ line)
      between = pictures[start + 1 : start + length + 1] - first[start]
      share = between @ line / square
      off = np.sqrt((((between - share[:, None] * line) ** 2).sum(axis=1) / square).mean())
      uneven = np.abs(share - np.arange(1, length + 1) / (length + 1)).max()
      if off < residual and uneven < 0.25:
        found.append((-float(lacking[start]), Transition(int(start) + 1, int(start) + length + 1, "dissolve")))
  best: list[Transition] = []
  for _, transition in sorted(found):
    if all(transition.end <= other.start or transition.start >= other.end for other in best):
      best.append(transition)
  return sorted(best)


def _lacking(detail: Float[np.ndarray, "T"], length: int) -> Float[np.ndarray, "N"]:
  """The share of a mixture's lack of detail, by least squares, for a dissolve of `length` frames after each frame."""
  share = np.arange(1, length + 1) / (length + 1)
  first, last = detail[: -length - 1, None], detail[length + 1 :, None]
  between = sliding_window_view(detail[1:-1], length)
  lack = first + (last - first) * share - between
  expected = share * (1 - share) * np.maximum(first + last, 1e-6)
  return (lack * expected).sum(axis=1) / (expected**2).sum(axis=1)


def flashes(features: Features, cuts: list[Transition], longest: int = 6) -> list[Transition]:
  """Those cuts after which the picture soon is again what it was before, and those that end such a stretch."""
  pictures = features.thumbnail.astype(np.float32)
  found = []
  for cut in cuts:
    for before, after in _around(cut.start, longest, len(pictures)):
      jump = np.abs(pictures[cut.start] - pictures[cut.start - 1]).mean()
      if np.abs(pictures[after] - pictures[before]).mean() < 0.5 * jump:
        found.append(cut)
        break
  return found


def _around(cut: int, longest: int, count: int) -> list[tuple[int, int]]:
  """Frames before and after a cut that a flash would leave alike: the flash begins, or ends, at most `longest` away."""
  return [
    (cut - 1 - lead, cut + length - lead)
    for length in range(1, longest + 1)
    for lead in range(length + 1)
    if cut - 1 - lead >= 0 and cut + length - lead < count
  ]


def _stands_out(change: Float[np.ndarray, "T"], ratio: float, least: float, window: int) -> Bool[np.ndarray, "T"]:
  if len(change) < 2 * window + 1:
    return np.zeros(len(change), bool)
  around = sliding_window_view(change, 2 * window + 1)
  mean = (around.sum(axis=1) - change[window:-window]) / (2 * window)
  stands = change[window:-window] >= ratio * mean
  return np.pad(stands, window) & (change >= least)


def _cuts(where: Bool[np.ndarray, "T"], kind: str) -> list[Transition]:
  return [Transition(int(index), int(index), kind) for index in np.flatnonzero(where) if index > 0]


def spaced(cuts: list[Transition], gap: int) -> list[Transition]:
  """Without those that follow another within `gap` frames."""
  kept: list[Transition] = []
  for cut in cuts:
    if not kept or cut.start - kept[-1].start >= gap:
      kept.append(cut)
  return kept


DETECTORS: Mapping[str, Callable[[Features], list[Transition]]] = {
  "content": content,
  "adaptive": adaptive,
  "histogram": histogram,
  "perceptual": perceptual,
  "fades": fades,
  "dissolves": dissolves,
}


def agreed(features: Features) -> list[Transition]:
  """Cuts that content, histogram and perceptual hash all see at one frame, also where a fast camera hides the jump."""
  rest = [{cut.start for cut in detector(features)} for detector in (histogram, perceptual)]
  return [Transition(cut.start, cut.end, "agreed") for cut in content(features) if all(cut.start in s for s in rest)]
