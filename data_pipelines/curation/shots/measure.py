"""Precision and recall of each detector and of the ensemble, on footage whose transitions are known.

python -m data_pipelines.curation.shots.measure --seeds 10 11 12 13 14 15
"""

import argparse
import dataclasses
import math
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_pipelines.curation.shots import combine, detectors, features, footage
from data_pipelines.curation.shots.detectors import Transition

_EARLY, _LATE = 2, 3  # frames by which the middle of what is found may miss a transition


@dataclasses.dataclass(frozen=True)
class Comparison:
  """How many transitions are true, how many were found, and how many of these are right."""

  right: int
  found: int
  true: int

  def __add__(self, other: "Comparison") -> "Comparison":
    return Comparison(self.right + other.right, self.found + other.found, self.true + other.true)

  @property
  def precision(self) -> float:
    """Of those found, the share that is right."""
    return self.right / self.found if self.found else 1.0

  @property
  def recall(self) -> float:
    """Of the true ones, the share that is found."""
    return self.right / self.true if self.true else 1.0


def compare(found: Sequence[Transition], truth: Sequence[Transition]) -> Comparison:
  """Holds what is found against the truth; each of either counts once."""
  free, right = list(found), 0
  for true in truth:
    hit = next((one for one in free if true.start - _EARLY <= one.middle <= true.end + _LATE), None)
    if hit is not None:
      free.remove(hit)
      right += 1
  return Comparison(right, len(found), len(truth))


def wilson(successes: int, trials: int) -> tuple[float, float]:
  """The 95 % interval of a share."""
  if not trials:
    return 0.0, 1.0
  z, share = 1.959964, successes / trials
  middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
  half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2)) / (1 + z * z / trials)
  return max(0.0, middle - half), min(1.0, middle + half)


def main() -> None:
  """Prints a line for each detector."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13])
  parser.add_argument("--shots", type=int, default=60)
  arguments = parser.parse_args()
  totals: dict[str, Comparison] = {}
  frames, seconds = 0, 0.0
  for seed in arguments.seeds:
    made = footage.make(seed, arguments.shots)
    small = [
      np.asarray(Image.fromarray(frame).resize(features.SIZE[::-1], Image.Resampling.BOX)) for frame in made.frames
    ]
    start = time.process_time()
    seen = features.of_frames(iter(small))
    results = {"ensemble": combine.ensemble(seen)}
    seconds += time.process_time() - start
    frames += len(small)
    results |= {name: detectors.spaced(detector(seen), 10) for name, detector in detectors.DETECTORS.items()}
    for name, found in results.items():
      totals[name] = totals.get(name, Comparison(0, 0, 0)) + compare(found, made.truth)
  print(f"{frames} frames, {totals['ensemble'].true} transitions, {frames / seconds:.0f} frames a CPU second")
  for name, total in totals.items():
    low, high = wilson(total.right, total.found)
    print(f"{name:12} precision {total.precision:.3f} [{low:.3f}, {high:.3f}]", end="  ")
    low, high = wilson(total.right, total.true)
    print(f"recall {total.recall:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
  main()
