import logging

import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines import records
from data_pipelines.reader import ReadReport, read
from data_pipelines.shards import read_manifest, write_shards
from kairos_jax.errors import KairosError
from tests.data_pipelines.conftest import make_clip


def test_records_know_where_they_lie(datasets):
  dataset = read(datasets["robot"])
  assert len(dataset) == 20
  assert dataset[6].id == "robot/robot-00001-of-00005.array_record#2"
  assert dataset[6].clip.caption == "clip 6"


def test_damaged_shards_are_skipped_logged_and_counted(datasets, caplog):
  folder = datasets["robot"]
  missing, empty, truncated = (folder / shard["file"] for shard in read_manifest(folder)["shards"][:3])
  missing.unlink()
  empty.write_bytes(b"")
  truncated.write_bytes(truncated.read_bytes()[:-500])
  report = ReadReport()
  with caplog.at_level(logging.WARNING):
    dataset = read(folder, report)
  assert report == ReadReport(shards_skipped=3, records_dropped=0)
  assert sum("skipped shard" in message for message in caplog.messages) == 3
  assert [record.clip.caption for record in dataset] == [f"clip {i}" for i in range(12, 20)]


def _with_broken(folder, broken, total=8):
  """A dataset of one shard, some of whose records are garbage."""
  write_shards([make_clip(i) for i in range(total)], folder, "toy", total)
  path = folder / read_manifest(folder)["shards"][0]["file"]
  writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
  for i in range(total):
    writer.write(b"garbage" if i in broken else records.encode(make_clip(i)))
  writer.close()
  return path


def test_broken_records_are_dropped_logged_and_counted_once(tmp_path, caplog):
  _with_broken(tmp_path, broken=(2, 5))
  report = ReadReport()
  dataset = read(tmp_path, report)
  assert dataset[2] is None
  with caplog.at_level(logging.WARNING):
    captions = [record.clip.caption for record in dataset.to_iter_dataset()]
  assert captions == [f"clip {i}" for i in (0, 1, 3, 4, 6, 7)]
  assert report.records_dropped == 2
  assert "#5" in caplog.text


def test_a_flipped_byte_costs_one_record(tmp_path):
  path = _with_broken(tmp_path, broken=())
  content = bytearray(path.read_bytes())
  content[content.index(b"clip 3")] ^= 0xFF
  path.write_bytes(content)
  report = ReadReport()
  dataset = read(tmp_path, report)
  assert [i for i in range(8) if dataset[i] is None] == [3]
  assert report.records_dropped == 1


def test_a_dataset_that_cannot_be_read_is_an_error(tmp_path):
  path = _with_broken(tmp_path, broken=range(5))
  with pytest.raises(KairosError, match="5 of 8 records"):
    list(read(tmp_path).to_iter_dataset())
  path.unlink()
  with pytest.raises(KairosError, match="no readable shard"):
    read(tmp_path)
