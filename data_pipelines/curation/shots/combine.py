"""One list of transitions from all detectors, and the shots between them."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from data_pipelines.curation.shots import detectors, features
from data_pipelines.curation.shots.detectors import Transition, spaced

_GAP = 8  # frames between two transitions, at least


@runtime_checkable
class Detector(Protocol):
  """What finds the transitions of a video. Name and version are noted; another one segments the video again."""

  @property
  def name(self) -> str:
    """In ledgers."""

  @property
  def version(self) -> int:
    """Of all that decides which transitions are found."""

  @property
  def size(self) -> tuple[int, int]:
    """Height and width of the pictures that it wants."""

  def __call__(self, frames: Iterator[UInt8[np.ndarray, "h w 3"]]) -> tuple[Sequence[tuple[int, int, str]], int]:
    """The transitions as start, end and kind, in order; and the number of frames."""


@dataclasses.dataclass(frozen=True)
class Ensemble:
  """The detectors of this package, together."""

  name: str = "ensemble"
  version: int = 1
  size: tuple[int, int] = features.SIZE

  def __call__(self, frames: Iterator[UInt8[np.ndarray, "36 64 3"]]) -> tuple[list[Transition], int]:
    seen = features.of_frames(frames)
    return ensemble(seen), len(seen.content)


def ensemble(seen: features.Features) -> list[Transition]:
  """Hard cuts that stand out, or that all other detectors see, without flashes; fades; dissolves with no cut inside."""
  found = detectors.fades(seen)
  cuts = spaced(sorted(detectors.adaptive(seen) + detectors.agreed(seen)), _GAP)
  cuts = [cut for cut in cuts if cut not in detectors.flashes(seen, cuts)]
  found += [cut for cut in cuts if _free(cut, found)]
  found += [dissolve for dissolve in detectors.dissolves(seen) if _free(dissolve, found)]
  return sorted(found)


def _free(transition: Transition, found: list[Transition]) -> bool:
  return all(transition.start - other.end >= _GAP or other.start - transition.end >= _GAP for other in found)


class Span(NamedTuple):
  """Frames `start` to `end`, exclusive, of a video."""

  start: int
  end: int


class Shots(NamedTuple):
  """What becomes clips, and how many shots were too short."""

  kept: list[Span]
  short: list[Span]


def shots(
  transitions: Sequence[tuple[int, int, str]],
  frames: int,
  hz: float,
  shortest: float = 5.0,
  longest: float = 40.0,
  part: float = 20.0,
) -> Shots:
  """The stretches between transitions, by the paper's rule: 5 to 40 s stay, longer ones become parts of 20 s.

  Args:
    transitions: in order; their frames belong to no shot.
    frames: of the video.
    hz: frames a second.
    shortest, longest, part: seconds. A last part that is shorter than `shortest` goes to the one before it.
  """
  starts = [0, *(end for _, end, _ in transitions)]
  ends = [*(start for start, _, _ in transitions), frames]
  kept, short = list[Span](), list[Span]()
  for start, end in zip(starts, ends, strict=True):
    if end - start < shortest * hz:
      if end > start:
        short.append(Span(start, end))
    elif end - start <= longest * hz:
      kept.append(Span(start, end))
    else:
      step = round(part * hz)
      cuts = list(range(start, end, step))
      if end - cuts[-1] < shortest * hz:
        cuts.pop()
      kept += [Span(first, last) for first, last in zip(cuts, [*cuts[1:], end], strict=True)]
  return Shots(kept, short)
