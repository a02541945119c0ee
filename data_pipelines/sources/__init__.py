"""Readers of other people's formats: robot datasets, video and image folders, all to the one record schema.

  from data_pipelines.sources import open_source
  recordings = open_source("lerobot", "/data/pusht", embodiment="slide_arm")
  for clip in recordings: ...
  print(recordings.report)

docs/data.md has the table of formats; `data_pipelines.sources.build` writes shards of what is read.
"""

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.records import Clip
from data_pipelines.sources import cut as cutting
from data_pipelines.sources.cut import Cut
from data_pipelines.sources.episode import LeftOut, Reader, Report
from data_pipelines.sources.options import Options
from kairos_jax.errors import KairosError

__all__ = ["KINDS", "Cut", "Options", "Recordings", "Report", "open_reader", "open_source"]

KINDS: Mapping[str, str] = {  # each a module here, and what it reads
  "lerobot": "LeRobot v2.0, v2.1 and v3.0",
  "rlds": "RLDS of Open X-Embodiment and others, as TFRecord or ArrayRecord",
  "droid": "DROID, as RLDS",
  "libero": "LIBERO demonstrations, hdf5",
  "robotwin": "RoboTwin 2.0, both of its hdf5 layouts",
  "agibot": "AgiBotWorld-Beta",
  "videos": "a folder of videos, with a text file beside each that has a caption",
  "images": "a folder of images, each a clip of one frame",
  "manifest": "JSON lines of a video's path and its caption",
}


class Recordings:
  """The clips of a dataset in a format of its own. Iterating reads all of it; a part alone can be read too.

  Attributes:
    origin: kind, name, license and embodiment.
    parts: each becomes one shard.
    report: of what iterating has read and left out so far.
  """

  def __init__(self, reader: Reader, cut: Cut):
    self._reader, self._cut = reader, cut
    self.origin, self.parts, self.report = reader.origin, reader.parts, Report()

  @property
  def name(self) -> str:
    """Of the source."""
    return self.origin.name

  def __iter__(self) -> Iterator[Clip]:
    for part in self.parts:
      yield from self.clips(part, self.report)

  def clips(self, part: Any, report: Report) -> Iterator[Clip]:
    """The clips of one part of `parts`. What cannot be read is counted in the report and told in one line.

    Readers stand on many libraries, each with errors of its own for damaged bytes: whatever one raises is a hole.
    """
    where = f"{self.origin.name} {_named(part)}"
    episodes = self._reader.episodes(part)
    while True:
      try:
        episode = next(episodes, None)
      except Exception as error:
        report.leave_out(error.name if isinstance(error, LeftOut) and error.name else where, error)
        return
      if episode is None:
        return
      if isinstance(episode, LeftOut):
        report.leave_out(episode.name or where, episode)
        continue
      made = cutting.clips(episode, self.origin, self._cut)
      while True:
        try:
          clip = next(made, None)
        except Exception as error:
          report.leave_out(f"{self.origin.name} {episode.name}", error)
          break
        if clip is None:
          report.episodes += 1
          break
        report.clips += 1
        yield clip


def open_source(kind: str, path: str | Path, *, cut: Cut | None = None, **options: Any) -> Recordings:
  """Opens a dataset by its format.

  Args:
    kind: one of `KINDS`.
    path: of the dataset's folder or file.
    cut: how episodes become clips; None is `Cut()`.
    **options: see `Options`; a format says which of them it takes.

  Raises:
    KairosError: an unknown kind, nothing of this format at the path, an option that the format does not take or lacks,
      or a package that reading needs is not installed.
  """
  return Recordings(open_reader(kind, path, **options), cut or Cut())


def open_reader(kind: str, path: str | Path, **options: Any) -> Reader:
  """The reader of a dataset's whole episodes; see `open_source`."""
  if kind not in KINDS:
    raise KairosError(f"unknown format {kind!r}: one of {', '.join(KINDS)}")
  if not Path(path).exists():
    raise KairosError(f"{path} does not exist")
  module = importlib.import_module(f"data_pipelines.sources.{kind}")
  given = Options(**options)
  given.check(kind, module.TAKES)
  return module.open_reader(Path(path), given)


def _named(part: Any) -> str:
  """How a line about a whole part calls it."""
  items = part if isinstance(part, list | tuple) else [part]
  names = [str(getattr(item, "name", item)) for item in items[:1]]
  return names[0] + (f" and {len(items) - 1} more" if len(items) > 1 else "") if names else "nothing"
