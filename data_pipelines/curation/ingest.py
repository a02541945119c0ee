"""Ingest: opens every video once, finds its shots, and notes them; what cannot be read is rejected with a reason."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

from data_pipelines.curation import pool
from data_pipelines.curation.ledger import Ledger
from data_pipelines.curation.shots import combine
from data_pipelines.curation.shots.combine import Detector
from data_pipelines.curation.workspace import Workspace
from data_pipelines.sources import video
from data_pipelines.sources.episode import Frames, LeftOut, lost
from data_pipelines.sources.options import inside
from kairos_jax.errors import KairosError

ENSEMBLE = combine.Ensemble()
MAX_FRAMES = 2_000_000  # of a video, 18 hours at 30 Hz; some 450 bytes of each are held


def ingest(
  workspace: Workspace, processes: int = 1, detector: Detector = ENSEMBLE
) -> Iterator[tuple[int, int, dict[str, Any]]]:
  """Segments the videos that are not segmented yet.

  Args:
    workspace: of videos; one of robots needs no segmenting, and nothing happens.
    processes: at once.
    detector: of transitions, picklable.

  Yields:
    How many videos are done, how many there are, and what is noted of this one.
  """
  if not workspace.segmented:
    return
  parts = workspace.reader().parts
  missing = [part for part in range(len(parts)) if workspace.shots(part).get("version") != version(detector)]
  done = len(parts) - len(missing)
  for part, entry in pool.run(functools.partial(_Segmenting, workspace, detector), missing, processes):
    if isinstance(entry, pool.WorkerDied):
      entry = _note(workspace, part, detector, {"video": parts[part][0][0], "rejected": "a process died on it"})
    done += 1
    yield done, len(parts), entry


def version(detector: Detector) -> str:
  """Of shots, in ledgers."""
  return f"{detector.name}.{detector.version}"


class _Segmenting:
  """Finds and notes the shots of one video after another, in any process."""

  def __init__(self, workspace: Workspace, detector: Detector):
    root = Path(workspace.path)
    self._workspace, self._root = workspace, root if root.is_dir() else root.parent
    self._parts, self._detector = workspace.reader().parts, detector

  def __call__(self, part: int) -> dict[str, Any]:
    (item,) = self._parts[part]
    if isinstance(item, LeftOut):
      return _note(self._workspace, part, self._detector, {"video": item.name, "rejected": item.reason})
    name, _ = item
    try:
      noted = _segment(inside(self._root, name), self._workspace.options.get("hz"), self._detector)
    except KairosError:
      raise  # of the detector: it is not there
    except Exception as error:  # each library has errors of its own for damaged bytes
      logging.warning("rejected %s: %s", name, " ".join(str(error).split())[:300])
      noted = {"rejected": lost(error, name, f"cannot be read ({type(error).__name__})").reason}
    return _note(self._workspace, part, self._detector, {"video": name, **noted})


def _note(workspace: Workspace, part: int, detector: Detector, entry: dict[str, Any]) -> dict[str, Any]:
  entry["version"] = version(detector)
  with Ledger(workspace.ledger("shots", part)) as ledger:
    ledger.append(entry)
  return entry


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
