import hashlib
import json
import multiprocessing

import numpy as np
import pytest

from data_pipelines import shards
from data_pipelines.source import ArrayRecordSource
from kairos_jax.errors import KairosError
from tests.data_pipelines.conftest import make_clip


def captions(folder):
  source = ArrayRecordSource(folder)
  return [source[i].clip.caption for i in range(len(source))]


def listing(folder):
  return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_shards_and_manifest(tmp_path):
  files = shards.write_shards((make_clip(i) for i in range(10)), tmp_path, "toy", 4, {"seed": 1})
  assert files == [f"toy-{i:05d}-of-00003.array_record" for i in range(3)]
  assert listing(tmp_path) == ["dataset.json", "index.safetensors", "statistics.safetensors", *files]
  manifest = shards.read_manifest(tmp_path)
  assert manifest["version"] == 2
  assert [shard["records"] for shard in manifest["shards"]] == [4, 4, 2]
  assert manifest["recipe"] == {"seed": 1}
  robot = manifest["sources"]["robot"]
  assert (robot["embodiment"], robot["cameras"], robot["state_dim"]) == ("slide_arm", {"front": [8, 8]}, 3)
  assert (robot["video_fps"], robot["action_hz"], robot["licenses"]) == ([10.0], [10.0], ["CC-BY-4.0"])
  assert (robot["records"], robot["frames"], robot["labeled"]) == (10, [9, 9, 90], True)
  assert captions(tmp_path) == [f"clip {i}" for i in range(10)]


def test_raw_records_are_larger_and_hold_the_same(tmp_path):
  for kind in ("zstd", "raw"):
    shards.write_shards([make_clip(i, 400) for i in range(3)], tmp_path / kind, "toy", 3, compressed=kind == "zstd")
  small, large = ((tmp_path / kind / "toy-00000-of-00001.array_record").stat().st_size for kind in ("zstd", "raw"))
  pixels = sum(make_clip(i, 400).cameras["front"].nbytes for i in range(3))
  assert small < pixels < large
  one, other = ArrayRecordSource(tmp_path / "zstd"), ArrayRecordSource(tmp_path / "raw")
  for index in range(3):
    np.testing.assert_array_equal(one[index].clip.cameras["front"], other[index].clip.cameras["front"])


def test_a_smaller_dataset_leaves_nothing_of_a_larger_one(tmp_path):
  shards.write_shards((make_clip(i) for i in range(10)), tmp_path, "toy", 4)
  files = shards.write_shards((make_clip(i) for i in range(3)), tmp_path, "toy", 4)
  assert listing(tmp_path) == ["dataset.json", "index.safetensors", "statistics.safetensors", *files]


def test_statistics_are_over_labeled_entries_of_each_source(tmp_path):
  mask = np.arange(8) < 4
  clips = [
    make_clip(0, action_mask=mask),
    make_clip(10, action_mask=mask),
    make_clip(5, state_dim=0, action_dim=0, source="hand"),
  ]
  shards.write_shards(clips, tmp_path, "toy", 4)
  manifest = shards.read_manifest(tmp_path)
  assert manifest["sources"]["hand"]["statistics"] == {}
  action = manifest["sources"]["robot"]["statistics"]["action"]
  values = np.array([0, 1, 2, 3, 10, 11, 12, 13], np.float64)
  assert action["count"] == 8 and action["rank_error"] == 0
  for name, value in dict(min=0, max=13, mean=values.mean(), std=values.std(), q99=np.quantile(values, 0.99)).items():
    np.testing.assert_allclose(action[name], [value] * 3)
  assert ArrayRecordSource(tmp_path).statistics["robot"]["action"].count == 8


def _write(folder, number):
  shards.write_shard((make_clip(i) for i in range(4 * number, 4 * number + 4)), folder, number, 3)


def test_many_writers_at_once_give_the_bytes_of_one(tmp_path):
  shards.write_shards((make_clip(i) for i in range(20)), tmp_path / "one", "toy", 4, horizon=3)
  with multiprocessing.get_context("spawn").Pool(2) as pool:
    pool.starmap(_write, [(tmp_path / "many", number) for number in (3, 0, 4, 1, 2)])
  assert not (tmp_path / "many" / "dataset.json").exists()
  shards.finalize(tmp_path / "many", "toy", 5)

  def digests(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in listing(folder)}

  assert digests(tmp_path / "one") == digests(tmp_path / "many")
  assert captions(tmp_path / "many") == [f"clip {i}" for i in range(20)]


def test_a_writer_that_begins_again_replaces_its_shard(tmp_path):
  with pytest.raises(RuntimeError):
    shards.write_shard(_broken(), tmp_path, 0)
  assert listing(tmp_path) == []
  shards.write_shard([make_clip(1)], tmp_path, 0)
  shards.write_shard([make_clip(2), make_clip(3)], tmp_path, 0)
  shards.finalize(tmp_path, "toy", 1)
  assert captions(tmp_path) == ["clip 2", "clip 3"]


def test_a_part_of_an_older_version_is_told(tmp_path, monkeypatch):
  shards.write_shard([make_clip(1)], tmp_path, 0)
  load = shards._load_statistics

  def older(path):
    described, features = load(path)
    return {key: value for key, value in described.items() if key != "sha256"}, features

  monkeypatch.setattr(shards, "_load_statistics", older)
  with pytest.raises(KairosError, match="shard 0 is of an older version"):
    shards.finalize(tmp_path, "toy", 1)


def test_a_missing_part_is_told_and_nothing_is_lost(tmp_path):
  shards.write_shard([make_clip(1)], tmp_path, 0)
  with pytest.raises(KairosError, match="shard 1 of 2 was not written"):
    shards.finalize(tmp_path, "toy", 2)
  shards.write_shard([make_clip(2)], tmp_path, 1)
  shards.finalize(tmp_path, "toy", 2)
  assert captions(tmp_path) == ["clip 1", "clip 2"]


def _broken():
  yield make_clip(0)
  raise RuntimeError("the source broke")


def test_a_failed_write_leaves_nothing_and_keeps_the_old(tmp_path):
  shards.write_shards([make_clip(7)], tmp_path, "toy", 4)
  before = listing(tmp_path)
  with pytest.raises(RuntimeError):
    shards.write_shards(_broken(), tmp_path, "toy", 4)
  assert listing(tmp_path) == before
  assert captions(tmp_path) == ["clip 7"]


@pytest.mark.parametrize("per_shard", [1, 4])
@pytest.mark.parametrize(
  ("clips", "words"),
  [
    ([], "no clips"),
    ([make_clip(), make_clip(state_dim=4)], "must agree"),
    ([make_clip(), make_clip(size=16)], "must agree"),
    ([make_clip(), make_clip(embodiment="hand")], "must agree"),
  ],
)
def test_what_is_no_dataset(tmp_path, clips, words, per_shard):
  with pytest.raises(KairosError, match=words):
    shards.write_shards(clips, tmp_path, "toy", per_shard)


def test_manifest_errors(tmp_path):
  with pytest.raises(KairosError, match=r"dataset\.json is missing"):
    shards.read_manifest(tmp_path)
  for text in ("{", "[]", json.dumps({"name": "x"})):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(KairosError):
      shards.read_manifest(tmp_path)
  old = {"name": "robot", "records": 1, "shards": [], "sources": {}}
  (tmp_path / "dataset.json").write_text(json.dumps(old))
  with pytest.raises(KairosError, match=r"version 1, 2 is required: build the dataset again.*`kairos data build`"):
    shards.read_manifest(tmp_path)


def test_statistics_that_cannot_be_read_are_told_in_one_line(tmp_path):
  shards.write_shards([make_clip()], tmp_path, "toy", 4)
  path = tmp_path / "statistics.safetensors"
  content = path.read_bytes()
  for damage in (lambda: path.write_bytes(content[:-40]), lambda: path.write_bytes(b""), path.unlink):
    damage()
    with pytest.raises(KairosError, match="cannot read the statistics") as error:
      _ = ArrayRecordSource(tmp_path).statistics
    assert "\n" not in str(error.value)


def test_a_dataset_can_be_made_of_some_of_the_shards(tmp_path):
  for number in range(4):
    shards.write_shard([make_clip(number)], tmp_path, number)
  files = shards.finalize(tmp_path, "toy", [0, 3])
  assert files == ["toy-00000-of-00002.array_record", "toy-00001-of-00002.array_record"]
  assert captions(tmp_path) == ["clip 0", "clip 3"] and listing(tmp_path)[-2:] == files
