"""Random access to the records of a dataset, forgiving: what is damaged is left out, logged once and counted."""

import dataclasses
from pathlib import Path

import grain
import numpy as np
from absl import logging
from array_record.python.array_record_module import ArrayRecordReader

from data_pipelines import records
from data_pipelines.records import Clip
from data_pipelines.shards import read_manifest
from kairos_jax.errors import KairosError


@dataclasses.dataclass
class ReadReport:
  """What reading had to leave out so far, over all datasets that were given this report."""

  shards_skipped: int = 0
  records_dropped: int = 0


@dataclasses.dataclass(frozen=True)
class Record:
  """A clip and where it lies: "dataset/shard#index"."""

  id: str
  clip: Clip


def read(folder: str | Path, report: ReadReport | None = None) -> grain.MapDataset[Record]:
  """The records of a dataset, in order, by index.

  A shard that is missing, empty or truncated is skipped; a record that does not decode is None, which grain's
  iterators pass over. Both are logged once and counted in `report`.

  Raises:
    KairosError: no manifest or no readable shard; on reading, once more than half of the records are broken.
  """
  return grain.MapDataset.source(_Reader(folder, report or ReadReport()))


class _Reader:
  """Random access to the readable records of a folder: a grain data source."""

  def __init__(self, folder: str | Path, report: ReadReport):
    manifest = read_manifest(folder)
    self._name, self._report = manifest["name"], report
    self._broken: set[int] = set()
    self._readers: list[tuple[str, ArrayRecordReader]] = []
    for shard in manifest["shards"]:
      # Without read-ahead, which only helps sequential reads.
      reader = ArrayRecordReader(str(Path(folder) / shard["file"]), "readahead_buffer_size:0,max_parallelism:0")
      if reader.ok() and reader.num_records():
        self._readers.append((shard["file"], reader))
      else:
        report.shards_skipped += 1
        logging.warning("skipped shard %s of %s: missing, empty or truncated", shard["file"], folder)
    if not self._readers:
      raise KairosError(f"no readable shard in {folder}: all {len(manifest['shards'])} are missing, empty or truncated")
    self._ends = np.cumsum([reader.num_records() for _, reader in self._readers])

  def __len__(self) -> int:
    return int(self._ends[-1])

  def __getitem__(self, index: int) -> Record | None:
    shard = int(np.searchsorted(self._ends, index, side="right"))
    file, reader = self._readers[shard]
    position = index - int(self._ends[shard]) + reader.num_records()
    name = f"{self._name}/{file}#{position}"
    try:
      return Record(name, records.decode(reader.read([position])[0]))
    except (KairosError, RuntimeError) as error:  # ArrayRecord tells of a checksum by RuntimeError.
      self._drop(index, name, error)
      return None

  def _drop(self, index: int, name: str, error: Exception) -> None:
    if index in self._broken:
      return
    self._broken.add(index)
    self._report.records_dropped += 1
    logging.warning("dropped record %s: %s", name, str(error).partition("\n")[0])
    if 2 * len(self._broken) > len(self):
      raise KairosError(
        f"{len(self._broken)} of {len(self)} records of dataset {self._name!r} are broken, at most half"
      )
