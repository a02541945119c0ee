"""LeRobot v2.0, v2.1 and v3.0, with pyarrow and PyAV.

Rows and frames of an episode are found by its index and, where many episodes share an mp4, by the second at which it
begins. States and actions are taken to be in the embodiment's units, because the format does not name units.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from data_pipelines import embodiments
from data_pipelines.embodiments import Embodiment
from data_pipelines.sources import video
from data_pipelines.sources.episode import Episode, Frames, LeftOut, Origin, Span, batched, lost, no_labels
from data_pipelines.sources.images import decoded
from data_pipelines.sources.lerobot_meta import ACTIONS, STATES, Entry, Meta, read_meta, read_rows
from data_pipelines.sources.options import Options, inside, needed
from kairos_jax.errors import KairosError

TAKES = ("embodiment", "cameras", "state", "action")
_PER_PART = 32


def open_reader(path: Path, options: Options) -> "LeRobotReader":
  """Opens the folder that has meta/info.json; see `Options`.

  Raises:
    KairosError: it is not such a dataset, its robot is unknown, or it lacks what the embodiment has.
  """
  return LeRobotReader(read_meta(path), options)


class LeRobotReader:
  """A `Reader`."""

  def __init__(self, meta: Meta, options: Options):
    self._meta, self._pq = meta, needed("pyarrow.parquet", "lerobot")
    embodiment = _embodiment(meta, options)
    license = options.license or meta.license or "unknown"
    self.origin = Origin("lerobot", options.name or meta.root.resolve().name, license, embodiment)
    there = meta.pictures
    self._cameras = {
      name: there.get(key, key)
      for name, key in options.chosen_cameras(embodiment, [*there, *there.values()], {}).items()
    }
    self._state = _key(meta, options.state, STATES, len(embodiment.state), "state")
    self._action = _key(meta, options.action, ACTIONS, len(embodiment.action), "action")
    self._table: tuple[str, Any] = "", None  # the last parquet file read: in v3.0 many episodes share it
    self.parts: Sequence[Sequence[Entry]] = batched(meta.entries, _PER_PART)

  def episodes(self, part: Sequence[Entry]) -> Iterator[Episode | LeftOut]:
    for entry in part:
      try:
        yield self._episode(entry)
      except (OSError, ValueError, KeyError, KairosError, LeftOut) as error:
        yield lost(error, f"{self.origin.name} {entry.name}", "rows cannot be read")

  def _episode(self, entry: Entry) -> Episode:
    stills = [key for key in self._cameras.values() if not self._meta.is_video(key)]
    rows = self._rows(entry, stills)
    if len(rows) != entry.length:
      raise LeftOut("rows missing", f"{entry.name} has {len(rows)} of {entry.length} rows")
    times = rows["timestamp"].to_numpy().astype(np.float64)
    if not np.all(np.abs(times - np.arange(entry.length) / self._meta.fps) < 0.5 / self._meta.fps):
      raise LeftOut("timestamps are not those of the frame rate", f"{entry.name} at {self._meta.fps:g} Hz")
    cameras: dict[str, Frames] = {}
    for name, key in self._cameras.items():
      if key in stills:
        cameras[name] = _stills(rows[key])
      else:
        file, start = entry.videos[key]
        path = inside(self._meta.root, file)
        cameras[name] = itertools.islice(video.frames(path, self._meta.fps, start), entry.length)
    return Episode(
      name=entry.name,
      hz=self._meta.fps,
      cameras=cameras,
      spans=_spans(rows["task_index"].to_numpy(), self._meta.tasks),
      state=_values(rows, self._state),
      action=_values(rows, self._action),
      provenance={"file": entry.data, "episode_index": entry.index, "robot_type": self._meta.robot},
    )

  def _rows(self, entry: Entry, stills: Sequence[str]) -> Any:
    """The table of one episode."""
    if self._table[0] != entry.data:
      columns = ["episode_index", "timestamp", "task_index", *stills, *filter(None, (self._state, self._action))]
      self._table = entry.data, read_rows(self._pq, inside(self._meta.root, entry.data), columns)
    table = self._table[1]
    mine = np.flatnonzero(table["episode_index"].to_numpy() == entry.index)
    if len(mine) and mine[-1] - mine[0] + 1 != len(mine):
      raise LeftOut("rows scattered", f"the rows of {entry.name} are not together")
    return table.slice(mine[0], len(mine)) if len(mine) else table.slice(0, 0)


def _embodiment(meta: Meta, options: Options) -> Embodiment:
  name = options.embodiment or meta.robot
  if name not in embodiments.NAMES:
    raise KairosError(
      f"{meta.root} is of robot_type {meta.robot!r}, which is no embodiment; say which of "
      f"{', '.join(embodiments.NAMES)} it is, or add one in data_pipelines/embodiments"
    )
  return embodiments.get(name)


def _key(meta: Meta, asked: str, usual: Sequence[str], dim: int, what: str) -> str:
  """The feature that holds states or actions; "" if the embodiment has none."""
  if not dim:
    return ""
  key = asked or next((key for key in usual if key in meta.features), "")
  if key not in meta.features:
    raise KairosError(f"{meta.root} has no {what} {key or ' or '.join(usual)!r}: it has {', '.join(meta.features)}")
  if (shape := list(meta.features[key].get("shape", []))) != [dim]:
    raise KairosError(f"{what} {key!r} of {meta.root} has shape {shape}, the embodiment {[dim]}")
  return key


def _values(rows: Any, key: str) -> Float32[np.ndarray, "N D"]:
  """A column of lists (of fixed or of free size) or of numbers, as rows."""
  if not key:
    return no_labels()
  column = rows[key].combine_chunks()
  flat = column.flatten() if hasattr(column, "flatten") and column.type.num_fields else column
  values = np.asarray(flat.to_numpy(zero_copy_only=False), np.float32)
  if len(column) and values.size % len(column):
    raise LeftOut("rows of uneven length", f"column {key}")
  return values.reshape(len(column), -1)


def _stills(column: Any) -> Frames:
  """Encoded images that lie in the rows."""
  for value in column:
    data = value["bytes"].as_py()
    if data is None:
      raise LeftOut("image not in the rows", f"it is the file {value['path'].as_py()}")
    yield decoded(data)


def _spans(tasks: np.ndarray, texts: Any) -> list[Span]:
  """Runs of rows with one task."""
  starts = [0, *(np.flatnonzero(np.diff(tasks)) + 1).tolist(), len(tasks)]
  return [
    Span(start, end, instruction=texts.get(int(tasks[start]), ""))
    for start, end in itertools.pairwise(starts)
    if end > start
  ]
