"""One list of transitions from all detectors, and the shots between them."""

from typing import NamedTuple

from data_pipelines.curation.shots import detectors
from data_pipelines.curation.shots.detectors import Transition, spaced
from data_pipelines.curation.shots.features import Features

VERSION = 1  # of all that decides which transitions are found; a new one segments videos again
_GAP = 8  # frames between two transitions, at least


def ensemble(features: Features) -> list[Transition]:
  """Hard cuts that stand out, or that all other detectors see, without flashes; fades; dissolves with no cut inside."""
  found = detectors.fades(features)
  cuts = spaced(sorted(detectors.adaptive(features) + detectors.agreed(features)), _GAP)
  cuts = [cut for cut in cuts if cut not in detectors.flashes(features, cuts)]
  found += [cut for cut in cuts if _free(cut, found)]
  found += [dissolve for dissolve in detectors.dissolves(features) if _free(dissolve, found)]
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
  transitions: list[Transition],
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
  starts = [0, *(transition.end for transition in transitions)]
  ends = [*(transition.start for transition in transitions), frames]
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
