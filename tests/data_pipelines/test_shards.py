import json

import numpy as np
import pytest

from data_pipelines import shards
from data_pipelines.normalize import Normalizer
from data_pipelines.reader import read
from kairos_jax.errors import KairosError
from tests.data_pipelines.conftest import make_clip


def test_shards_and_manifest(tmp_path):
  files = shards.write_shards((make_clip(i) for i in range(10)), tmp_path, "toy", 4, {"seed": 1})
  assert files == [f"toy-{i:05d}-of-00003.array_record" for i in range(3)]
  assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset.json", *files]
  manifest = shards.read_manifest(tmp_path)
  assert [shard["records"] for shard in manifest["shards"]] == [4, 4, 2]
  assert manifest["recipe"] == {"seed": 1}
  assert manifest["sources"]["robot"]["shapes"] == {"frame": [8, 8, 3], "state": [3], "action": [3]}
  assert [record.clip.caption for record in read(tmp_path)] == [f"clip {i}" for i in range(10)]


def test_a_smaller_dataset_leaves_nothing_of_a_larger_one(tmp_path):
  shards.write_shards((make_clip(i) for i in range(10)), tmp_path, "toy", 4)
  files = shards.write_shards((make_clip(i) for i in range(3)), tmp_path, "toy", 4)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset.json", *files]


def test_statistics_are_over_labeled_entries_of_each_source(tmp_path):
  mask = np.arange(8) < 4
  clips = [
    make_clip(0, action_mask=mask),
    make_clip(10, action_mask=mask),
    make_clip(5, state_dim=0, action_dim=0, source="hand"),
  ]
  shards.write_shards(clips, tmp_path, "toy", 4)
  statistics = shards.statistics(tmp_path)
  assert statistics["hand"] == {}
  action = statistics["robot"]["action"]
  values = np.array([0, 1, 2, 3, 10, 11, 12, 13], np.float64)
  assert action["count"] == 8
  for name, value in dict(min=0, max=13, mean=values.mean(), std=values.std(), q99=np.quantile(values, 0.99)).items():
    np.testing.assert_allclose(action[name], [value] * 3)
  assert Normalizer.from_statistics(action).high.shape == (3,)


def test_a_failed_write_leaves_nothing_and_keeps_the_old(tmp_path):
  def clips():
    yield make_clip(0)
    raise RuntimeError("the source broke")

  shards.write_shards([make_clip(7)], tmp_path, "toy", 4)
  before = sorted(path.name for path in tmp_path.iterdir())
  with pytest.raises(RuntimeError):
    shards.write_shards(clips(), tmp_path, "toy", 4)
  assert sorted(path.name for path in tmp_path.iterdir()) == before
  assert [record.clip.caption for record in read(tmp_path)] == ["clip 7"]


@pytest.mark.parametrize(
  ("clips", "words"), [([], "no clips"), ([make_clip(), make_clip(state_dim=4)], "they must agree")]
)
def test_what_is_no_dataset(tmp_path, clips, words):
  with pytest.raises(KairosError, match=words):
    shards.write_shards(clips, tmp_path, "toy", 4)


def test_manifest_errors(tmp_path):
  with pytest.raises(KairosError, match=r"dataset\.json is missing"):
    shards.read_manifest(tmp_path)
  for text in ("{", "[]", json.dumps({"name": "x"})):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(KairosError):
      shards.read_manifest(tmp_path)
