"""Random access to the clips of a dataset: what cannot be read leaves a hole in its place, never another order."""

import dataclasses
import functools
import threading
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from absl import logging
from array_record.python.array_record_module import ArrayRecordReader

from data_pipelines import index as index_lib
from data_pipelines import records
from data_pipelines.contents import Contents, shape_of
from data_pipelines.index import Index
from data_pipelines.records import Clip
from data_pipelines.shards import read_manifest, read_statistics
from data_pipelines.statistics import Features
from kairos_jax import locations
from kairos_jax.errors import KairosError
from kairos_jax.locations import Location


@dataclasses.dataclass(frozen=True)
class Record:
  """A clip and where it lies: "dataset/shard#index"."""

  id: str
  clip: Clip


@runtime_checkable
class Source(Protocol):
  """A dataset by index. To add one, implement these; see docs/data.md."""

  def __len__(self) -> int:
    """How many records there are, holes included: a number that damage does not change."""

  def __getitem__(self, index: int) -> Record | None:
    """The record at `index`, always the same one; None is a hole."""

  @property
  def contents(self) -> Mapping[str, Contents]:
    """What the records of each `clip.source` have in common."""

  @property
  def statistics(self) -> Mapping[str, Features]:
    """Of the states and actions of each `clip.source`, mergeable."""

  def index(self) -> Index:
    """What is known of every record without reading it; asked for by stages with filters or several buckets."""


@dataclasses.dataclass
class ReadReport:
  """What reading had to leave out so far, over all sources that were given this report."""

  shards_lost: int = 0
  holes: int = 0  # records, those of lost shards included


class ArrayRecordSource:
  """A folder that `shards.finalize` made; a `Source`, and a grain data source.

  The manifest says where record i lies. A shard that is missing, truncated or of another length is lost with all its
  records. A record that does not decode, or that is not of a source and a shape in the manifest, is a hole. Each is
  logged once and counted in the report.

  Raises:
    KairosError: no manifest, or (here or at a later read) more than half of the records are holes.
  """

  def __init__(self, folder: str | Location, report: ReadReport | None = None):
    self._folder = locations.at(folder)
    manifest = read_manifest(folder)
    self._name, self._report = manifest["name"], report or ReadReport()
    self.contents = {name: Contents.from_json(entry) for name, entry in manifest["sources"].items()}
    self._holes: set[int] = set()
    self._lock = threading.Lock()  # grain reads from several threads
    self._shards: list[tuple[str, ArrayRecordReader | None]] = []
    lost = 0
    for shard in manifest["shards"]:
      reader = _reader(self._folder / shard["file"], shard)
      self._shards.append((shard["file"], reader))
      if reader is None:
        lost += shard["records"]
        self._report.shards_lost += 1
        logging.warning("lost shard %s of %s: missing, truncated or not the one written", shard["file"], folder)
    self._ends = np.cumsum([shard["records"] for shard in manifest["shards"]])
    self._lost = lost
    self._report.holes += lost
    self._check()

  def __len__(self) -> int:
    return int(self._ends[-1])

  def __getitem__(self, index: int) -> Record | None:
    if not 0 <= index < len(self):
      raise IndexError(f"record {index} of {len(self)}")
    shard = int(np.searchsorted(self._ends, index, side="right"))
    file, reader = self._shards[shard]
    if reader is None:
      return None
    position = index - (int(self._ends[shard - 1]) if shard else 0)
    name = f"{self._name}/{file}#{position}"
    try:
      clip = records.decode(reader.read([position])[0])
      self._check_clip(clip)
      return Record(name, clip)
    except (KairosError, RuntimeError, IndexError) as error:  # ArrayRecord tells of a checksum by RuntimeError.
      self._drop(index, name, error)
      return None

  @functools.cached_property
  def statistics(self) -> Mapping[str, Features]:
    return read_statistics(self._folder)

  def index(self) -> Index:
    index = index_lib.read(self._folder / index_lib.INDEX)
    if len(index) != len(self):
      raise KairosError(f"{self._folder / index_lib.INDEX} is of {len(index)} records, the dataset has {len(self)}")
    return index

  def _check_clip(self, clip: Clip) -> None:
    if clip.source not in self.contents:
      raise KairosError(f"it is of source {clip.source!r}, the dataset has {', '.join(self.contents)}")
    expected, given = self.contents[clip.source].shape, shape_of(clip)
    if given != expected:
      raise KairosError(f"it has (embodiment, cameras, state, action, encoding) {given}, the dataset {expected}")

  def _drop(self, index: int, name: str, error: Exception) -> None:
    with self._lock:
      if index in self._holes:
        return
      self._holes.add(index)
      self._report.holes += 1
    logging.warning("dropped record %s: %s", name, str(error).partition("\n")[0])
    self._check()

  def _check(self) -> None:
    holes = self._lost + len(self._holes)
    if 2 * holes > len(self):
      raise KairosError(
        f"{holes} of {len(self)} records of dataset {self._folder} cannot be read: at most half may fail"
      )


def _reader(path: Location, shard: Mapping[str, Any]) -> ArrayRecordReader | None:
  """A reader of a shard that has as many records as were written, without read-ahead (for sequential reads only)."""
  try:
    here = locations.cached(path, shard.get("sha256", ""))
    reader = ArrayRecordReader(str(here), "readahead_buffer_size:0,max_parallelism:0")
    return reader if reader.ok() and reader.num_records() == shard["records"] else None
  except (RuntimeError, FileNotFoundError, locations.Damaged):
    return None
