"""Imports a dataset of another format into shards: resumable by shard, and what is left out is counted.

A ledger beside the waiting shards says, for each part that is done, which shard it became and what was left out. A run
that was ended, in whatever way, goes on with the first part that has no entry; the bytes are those of one run.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol, runtime_checkable

from data_pipelines import shards
from data_pipelines.contents import shape_of
from data_pipelines.engines.base import Engine, Entry, WorkerDied, no_questions
from data_pipelines.engines.pool import HERE
from data_pipelines.records import Clip
from data_pipelines.sources import LeftOut, Report
from kairos_jax import files, locations
from kairos_jax.errors import KairosError
from kairos_jax.locations import Location

_LEDGER = "import"  # folder below that of the waiting shards
Shapes = dict[str, list[Any]]  # what all clips of a source share, by source


@runtime_checkable
class Parts(Protocol):
  """What is read part by part, each of which becomes a shard."""

  @property
  def parts(self) -> Sequence[Any]:
    """In a fixed order."""

  @property
  def name(self) -> str:
    """For messages."""

  def clips(self, part: Any, report: Report) -> Iterator[Clip]:
    """The clips of one part; what cannot be read is counted in the report."""


def build(
  recordings: Parts,
  folder: str | Location,
  name: str,
  recipe: Mapping[str, Any],
  on_part: Callable[[int, Report], None] = lambda done, report: None,
  reopen: Callable[[], Parts] | None = None,
  engine: Engine = HERE,
  compressed: bool = True,
) -> Report:
  """Writes one shard for each part that holds a clip, then the statistics and the manifest; see `shards`.

  Args:
    recordings: an opened dataset.
    folder: to write to; one that holds this import already, whole or in part, is completed.
    name: of the dataset.
    recipe: how `recordings` was opened, JSON; kept in the manifest, with what was left out.
    on_part: called with the number of parts done and the report so far.
    reopen: opens the dataset in another process, picklable; `recordings` itself is read if not given.
    engine: that does the work; the bytes do not depend on it.
    compressed: see `shards.write_shard`.

  Raises:
    KairosError: the folder holds something else, or nothing could be read.
  """
  folder = locations.at(folder)
  recipe = json.loads(json.dumps({**recipe, "parts": len(recordings.parts), **({} if compressed else {"raw": True})}))
  if (finished := _finished(folder, recipe)) is not None:
    return finished
  ledger = folder / shards.PARTS / _LEDGER
  _begin(ledger / "recipe.json", recipe, folder)
  paths = [ledger / f"{number:05d}.json" for number in range(len(recordings.parts))]
  missing = [number for number, path in enumerate(paths) if not path.is_file()]
  total, shapes, written = Report(), Shapes(), list[int]()
  made = _in_order(engine(Importing(reopen or (lambda: recordings), folder, compressed), missing), missing)
  for number, path in enumerate(paths):
    if path.is_file():
      entry = json.loads(path.read_text())
    else:
      entry = next(made)
      if any(shapes.get(source, shape) != shape for source, shape in entry["shapes"].items()):
        # The part's own first clip of a source is not of the shape of the dataset's first.
        entry = _import_part(recordings, number, folder, compressed, shapes)
      files.write_json(path, entry)
    shapes |= entry["shapes"]
    written += [number] * entry["written"]
    total.add(_report(entry))
    on_part(number + 1, total)
  if not written:
    raise KairosError(f"nothing of {recordings.name} could be read: {total}")
  read = {"episodes": total.episodes, "clips": total.clips, "left_out": dict(sorted(total.left_out.items()))}
  shards.finalize(folder, name, written, {"import": recipe, "read": read})
  return total


def _import_part(recordings: Parts, number: int, folder: Location, compressed: bool, shapes: Shapes) -> dict[str, Any]:
  """Writes a part's shard, under the part's number; what the ledger keeps of it."""
  report, shapes = Report(), dict(shapes)
  clips = _agreeing(recordings.clips(recordings.parts[number], report), shapes, report)
  first = next(clips, None)
  if first is not None:
    shards.write_shard(chain([first], clips), folder, number, compressed=compressed)
  read = {"episodes": report.episodes, "clips": report.clips, "left_out": dict(report.left_out)}
  return {"written": first is not None, "read": read, "shapes": shapes}


@dataclasses.dataclass(frozen=True)
class Importing:
  """Imports the parts of a dataset; the items are their numbers."""

  reopen: Callable[[], Parts]
  folder: Location
  compressed: bool

  def reader(self) -> Callable[[int], Iterator[Entry]]:
    """See `Work`. A shard is written where its part is read."""
    recordings = self.reopen()

    def read(number: int) -> Iterator[Entry]:
      yield _import_part(recordings, number, self.folder, self.compressed, {})

    return read

  def answerer(self) -> Callable[[Any], Entry]:
    """See `Work`."""
    return no_questions

  def ledger(self, item: int) -> None:
    """None: `build` notes what is done, in order."""
    del item


def _in_order(made: Iterator[tuple[int, list[Entry] | WorkerDied]], numbers: Sequence[int]) -> Iterator[Entry]:
  """What became of each of these parts; those that are early wait."""
  early: dict[int, Entry] = {}
  for wanted in numbers:
    while wanted not in early:
      number, entries = next(made)
      early[number] = _LOST if isinstance(entries, WorkerDied) else entries[0]
    yield early.pop(wanted)


_LOST = {"written": False, "read": {"episodes": 0, "clips": 0, "left_out": {"a process died on it": 1}}, "shapes": {}}


def _agreeing(clips: Iterable[Clip], shapes: Shapes, report: Report) -> Iterator[Clip]:
  """Those of the shape of their source's first; a dataset's source has one."""
  for clip in clips:
    shape = json.loads(json.dumps(shape_of(clip)))
    if shapes.setdefault(clip.source, shape) == shape:
      yield clip
      continue
    report.clips -= 1
    name = f"{clip.source} {clip.provenance.get('episode', '')}"
    report.leave_out(name, LeftOut("differs from its source", f"it is {shape}, the first was {shapes[clip.source]}"))


def _begin(path: Location, recipe: Mapping[str, Any], folder: Location) -> None:
  """Notes how the import is made, or holds it to what an unfinished one has noted."""
  if path.is_file():
    noted = json.loads(path.read_text())
    if noted != recipe:
      different = sorted(key for key in {*noted, *recipe} if noted.get(key) != recipe.get(key))
      raise KairosError(
        f"{folder} holds an unfinished import that differs in {', '.join(different)}: repeat that one, or remove "
        f"{folder / shards.PARTS}"
      )
    return
  files.write_json(path, recipe)


def _finished(folder: Location, recipe: Mapping[str, Any]) -> Report | None:
  """What an import that is complete has read; None if there is nothing yet."""
  if not (folder / shards.MANIFEST).is_file():
    return None
  manifest = shards.read_manifest(folder)
  noted = manifest.get("recipe", {})
  if noted.get("import") != recipe:
    raise KairosError(f"{folder} holds another dataset, {manifest['name']!r}: choose a new folder")
  shards.clear(folder)
  return _report(noted)


def _report(entry: Mapping[str, Any]) -> Report:
  report = Report(entry["read"]["episodes"], entry["read"]["clips"])
  report.left_out.update(entry["read"]["left_out"])
  return report
