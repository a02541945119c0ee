"""Reading by index what is whole, and what is damaged: holes keep their places."""

import logging

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from safetensors.numpy import save

from data_pipelines import records
from data_pipelines.shards import read_manifest, write_shards
from data_pipelines.source import ArrayRecordSource, ReadReport
from kairos_jax.errors import KairosError
from tests.data_pipelines.conftest import make_clip


def captions(source):
  found = (source[i] for i in range(len(source)))
  return [None if record is None else record.clip.caption for record in found]


def shard(folder, number):
  return folder / read_manifest(folder)["shards"][number]["file"]


def overwrite(path, contents):
  writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
  for content in contents:
    writer.write(content)
  writer.close()


def with_foreign(folder, foreign, total=8):
  """A dataset of one shard, some of whose records are other bytes."""
  write_shards([make_clip(i) for i in range(total)], folder, "toy", total)
  path = shard(folder, 0)
  overwrite(path, [foreign.get(i, records.encode(make_clip(i))) for i in range(total)])
  return path


def test_records_know_where_they_lie(datasets):
  source = ArrayRecordSource(datasets["robot"])
  assert len(source) == 20
  assert source[6].id == "robot/robot-00001-of-00005.array_record#2"
  assert captions(source) == [f"clip {i}" for i in range(20)]
  for index in (-1, 20):
    with pytest.raises(IndexError):
      source[index]


def test_a_lost_shard_leaves_holes_and_every_other_record_in_its_place(datasets, caplog):
  folder = datasets["robot"]
  shard(folder, 0).unlink()
  truncated = shard(folder, 3)
  truncated.write_bytes(truncated.read_bytes()[:-500])
  report = ReadReport()
  with caplog.at_level(logging.WARNING):
    source = ArrayRecordSource(folder, report)
  assert report == ReadReport(shards_lost=2, holes=8)
  assert sum("lost shard" in message for message in caplog.messages) == 2
  lost = {*range(4), *range(12, 16)}
  assert len(source) == 20 and captions(source) == [None if i in lost else f"clip {i}" for i in range(20)]
  assert report == ReadReport(shards_lost=2, holes=8)


@pytest.mark.parametrize("count", [0, 3, 5])
def test_a_shard_of_another_length_is_not_the_one_written(datasets, count):
  overwrite(shard(datasets["robot"], 1), [records.encode(make_clip(50 + i)) for i in range(count)])
  source = ArrayRecordSource(datasets["robot"])
  assert captions(source) == [None if 4 <= i < 8 else f"clip {i}" for i in range(20)]


def test_an_empty_file_is_a_lost_shard(datasets):
  shard(datasets["robot"], 4).write_bytes(b"")
  assert captions(ArrayRecordSource(datasets["robot"]))[15:] == ["clip 15"] + [None] * 4


@pytest.mark.parametrize("lost", [3, 4, 5])
def test_more_than_half_lost_is_an_error_at_opening(datasets, lost):
  for number in range(lost):
    shard(datasets["robot"], number).unlink()
  paths = datasets["robot"]
  with pytest.raises(KairosError, match=rf"{4 * lost} of 20 records of dataset .*robot cannot be read: at most half"):
    ArrayRecordSource(paths)


def test_half_lost_is_not_an_error_and_one_broken_record_more_is(tmp_path):
  write_shards((make_clip(i) for i in range(8)), tmp_path, "toy", 4)
  shard(tmp_path, 0).unlink()
  overwrite(shard(tmp_path, 1), [records.encode(make_clip(i)) for i in (4, 5, 6)] + [b"garbage"])
  source = ArrayRecordSource(tmp_path)
  assert [source[i].clip.caption for i in (4, 5, 6)] == ["clip 4", "clip 5", "clip 6"]
  with pytest.raises(KairosError, match="5 of 8 records"):
    source[7]


def foreign_records():
  tensors = dict(video=np.zeros((5, 8, 8, 3), np.uint8), fps=np.array(10.0))
  return {
    "garbage": b"garbage",
    "of version 1": save(tensors),
    "of another source": records.encode(make_clip(source="elsewhere")),
    "of another size": records.encode(make_clip(size=16)),
    "of other cameras": records.encode(make_clip(cameras={"wrist": np.zeros((9, 8, 8, 3), np.uint8)})),
    "of other dimensions": records.encode(make_clip(action_dim=4)),
    "of another body": records.encode(make_clip(embodiment="hand")),
  }


@pytest.mark.parametrize("kind", foreign_records())
def test_a_foreign_record_is_one_hole_logged_and_counted_once(tmp_path, caplog, kind):
  with_foreign(tmp_path, {2: foreign_records()[kind]})
  report = ReadReport()
  source = ArrayRecordSource(tmp_path, report)
  assert source[2] is None
  with caplog.at_level(logging.WARNING):
    assert captions(source) == [None if i == 2 else f"clip {i}" for i in range(8)]
  assert report == ReadReport(shards_lost=0, holes=1) and caplog.text.count("dropped") == 1


def test_a_flipped_byte_costs_one_record(tmp_path, caplog):
  path = with_foreign(tmp_path, {})
  content = bytearray(path.read_bytes())
  content[content.index(b"clip 3")] ^= 0xFF
  path.write_bytes(content)
  report = ReadReport()
  with caplog.at_level(logging.WARNING):
    assert captions(ArrayRecordSource(tmp_path, report)) == [None if i == 3 else f"clip {i}" for i in range(8)]
  assert report.holes == 1 and "#3" in caplog.text


def test_a_dataset_that_breaks_while_it_is_read_is_an_error(tmp_path):
  with_foreign(tmp_path, dict.fromkeys(range(5), b"garbage"))
  with pytest.raises(KairosError, match="5 of 8 records"):
    captions(ArrayRecordSource(tmp_path))
