"""Ingest: opens every video once, finds its shots, and notes them; what cannot be read is rejected with a reason."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import logging

from data_pipelines.curation.shots import combine
from data_pipelines.curation.shots.combine import Detector
from data_pipelines.curation.workspace import Workspace
from data_pipelines.engines.base import Engine, Entry, WorkerDied, no_questions
from data_pipelines.engines.ledger import Ledger
from data_pipelines.engines.pool import HERE
from data_pipelines.sources import video
from data_pipelines.sources.episode import Frames, LeftOut, lost
from data_pipelines.sources.options import inside
from kairos_jax.errors import KairosError
from kairos_jax.locations import Location

ENSEMBLE = combine.Ensemble()
MAX_FRAMES = 2_000_000  # of a video, 18 hours at 30 Hz; some 450 bytes of each are held


def ingest(
  workspace: Workspace, engine: Engine = HERE, detector: Detector = ENSEMBLE
) -> Iterator[tuple[int, int, Entry]]:
  """Segments the videos that are not segmented yet.

  Args:
    workspace: of videos; one of robots needs no segmenting, and nothing happens.
    engine: that does the work.
    detector: of transitions, picklable.

  Yields:
    How many videos are done, how many there are, and what is noted of this one.
  """
  if not workspace.segmented:
    return
  work = Segmenting(workspace, detector)
  parts = workspace.reader().parts
  missing = [part for part in range(len(parts)) if workspace.shots(part).get("version") != version(detector)]
  done = len(parts) - len(missing)
  for part, entries in engine(work, missing):
    if isinstance(entries, WorkerDied):
      entries = [work.entry({"video": parts[part][0][0], "rejected": "a process died on it"})]
      with Ledger(work.ledger(part)) as book:
        book.append(entries[0])
    done += 1
    yield done, len(parts), entries[0]


def version(detector: Detector) -> str:
  """Of shots, in ledgers."""
  return f"{detector.name}.{detector.version}"


@dataclasses.dataclass(frozen=True)
class Segmenting:
  """Finds the shots of videos; the items are the numbers of the videos."""

  workspace: Workspace
  detector: Detector

  def reader(self) -> Callable[[int], Iterator[Entry]]:
    """See `Work`. The detector looks at frames as they are decoded."""
    root = Path(self.workspace.path)
    root = root if root.is_dir() else root.parent
    parts = self.workspace.reader().parts

    def read(part: int) -> Iterator[Entry]:
      (item,) = parts[part]
      if isinstance(item, LeftOut):
        yield self.entry({"video": item.name, "rejected": item.reason})
        return
      name, _ = item
      try:
        noted = _segment(inside(root, name), self.workspace.options.get("hz"), self.detector)
      except KairosError:
        raise  # of the detector: it is not there
      except Exception as error:  # each library has errors of its own for damaged bytes
        logging.warning("rejected %s: %s", name, " ".join(str(error).split())[:300])
        noted = {"rejected": lost(error, name, f"cannot be read ({type(error).__name__})").reason}
      yield self.entry({"video": name, **noted})

    return read

  def answerer(self) -> Callable[[Any], Entry]:
    """See `Work`."""
    return no_questions

  def ledger(self, item: int) -> Location:
    """See `Work`."""
    return self.workspace.ledger("shots", item)

  def entry(self, noted: Entry) -> Entry:
    """What is noted of a video, with the detector that it is of."""
    return {**noted, "version": version(self.detector)}


def _segment(path: Path, hz: float | None, detector: Detector) -> dict[str, Any]:
  """What is noted of a readable video."""
  described = video.describe(path)
  hz = hz or described.hz
  found, count = detector(_bounded(video.frames(path, hz, size=detector.size)))
  shots = combine.shots(found, count, hz)
  noted: dict[str, Any] = {"hz": hz, "height": described.height, "width": described.width, "frames": count}
  noted |= {"transitions": found, "shots": shots.kept, "short": shots.short}
  return noted if shots.kept else noted | {"rejected": "no shot is long enough"}


def _bounded(frames: Frames) -> Frames:
  """A small file can hold years of a picture that stands still."""
  for number, frame in enumerate(frames):
    if number >= MAX_FRAMES:
      raise LeftOut("too many frames", f"there are more than {MAX_FRAMES}")
    yield frame
