import dataclasses
import json

import numpy as np
import pytest

from data_pipelines import dataset_stats, embodiments, statistics
from data_pipelines.dataset_stats import DatasetStats
from data_pipelines.normalize import EmbodimentNormalizer
from kairos_jax.errors import KairosError
from tests.data_pipelines.conftest import make_clip, make_embodiment

NAMES = ("min", "max", "mean", "std", "q01", "q99")


@pytest.fixture
def features():
  rng = np.random.default_rng(0)
  state, action = rng.normal(size=(40, 8)).astype(np.float32), rng.normal(size=(39, 7)).astype(np.float32)
  masks = dict(state_mask=np.ones(40, bool), action_mask=np.ones(39, bool))
  return statistics.of_clip(make_clip(frames=40, state=state, action=action, **masks), horizon=5)


def test_the_layout_is_the_reference_s(features, tmp_path):
  path = tmp_path / "dataset_stats.json"
  dataset_stats.write(path, DatasetStats.of(features, episodes=1, transitions=39))
  content = json.loads(path.read_text())
  assert content.keys() == {"state", "action", "num_episodes", "num_transition"}
  assert (content["num_episodes"], content["num_transition"]) == (1, 39)
  for feature, steps, dim in (("state", 1, 8), ("action", 5, 7)):
    values = content[feature]["default"]
    assert values.keys() == {f"{scope}_{name}" for scope in ("global", "stepwise") for name in NAMES}
    for name in NAMES:
      assert np.shape(values[f"global_{name}"]) == (dim,) and np.shape(values[f"stepwise_{name}"]) == (steps, dim)


@pytest.mark.parametrize("scope", ["global", "per_step"])
def test_round_trip_gives_the_same_normalizers(features, tmp_path, scope):
  path = tmp_path / "dataset_stats.json"
  stats = DatasetStats.of(features, 1, 39)
  dataset_stats.write(path, stats)
  back = dataset_stats.read(path)
  assert (back.episodes, back.transitions) == (1, 39)
  for ours, theirs in ((stats.overall, back.overall), (stats.stepwise, back.stepwise)):
    for feature in ("state", "action"):
      for name in NAMES:
        np.testing.assert_array_equal(ours[feature][name], theirs[feature][name])
  embodiment = dataclasses.replace(embodiments.get("libero_franka"), scope=scope)
  expected, made = EmbodimentNormalizer.from_statistics(embodiment, features), back.normalizer(embodiment)
  for part in ("state", "action"):
    np.testing.assert_array_equal(getattr(made, part).center, getattr(expected, part).center)
    np.testing.assert_array_equal(getattr(made, part).scale, getattr(expected, part).scale)


def test_a_file_made_by_hand_min_max_to_the_reference_s_numbers(tmp_path):
  # The reference maps [low, high] by scale 2 / (high - low) and offset -1 - scale low; a constant is only shifted.
  low, high = np.array([-0.3, 0.0, 2.7]), np.array([0.9, 5.1, 2.7])
  values = {f"global_{name}": [0.0] * 3 for name in NAMES} | {"global_min": low.tolist(), "global_max": high.tolist()}
  path = tmp_path / "dataset_stats.json"
  path.write_text(
    json.dumps({"action": {"default": values}, "state": {"default": values}, "num_episodes": 2, "num_transition": 9})
  )
  normalizer = dataset_stats.read(path).normalizer(make_embodiment(normalization="min_max")).action
  x = np.random.default_rng(0).normal(size=(6, 3))
  expected = np.stack(
    [
      2 / (h - b) * x[:, i] + (-1 - 2 / (h - b) * b) if h > b else x[:, i] - b
      for i, (b, h) in enumerate(zip(low, high, strict=True))
    ],
    -1,
  )
  np.testing.assert_allclose(normalizer.normalize(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  "text",
  [
    "",
    "[]",
    "{}",
    '{"state": {"default": {}}, "num_episodes": 1, "num_transition": 1}',
    '{"state": 3, "num_episodes": 1}',
  ],
)
def test_what_is_no_dataset_stats(tmp_path, text):
  path = tmp_path / "dataset_stats.json"
  with pytest.raises(KairosError, match="cannot read the dataset statistics"):
    dataset_stats.read(path)
  path.write_text(text)
  with pytest.raises(KairosError, match="cannot read the dataset statistics") as error:
    dataset_stats.read(path)
  assert "\n" not in str(error.value)


def test_shapes_that_differ_and_features_that_lack(features, tmp_path):
  path = tmp_path / "dataset_stats.json"
  dataset_stats.write(path, DatasetStats.of({"state": features["state"]}, 1, 39))
  with pytest.raises(KairosError, match="no action; embodiment 'libero_franka'"):
    dataset_stats.read(path).normalizer(embodiments.get("libero_franka"))
  content = json.loads(path.read_text())
  content["state"]["default"]["global_max"].append(1.0)
  path.write_text(json.dumps(content))
  with pytest.raises(KairosError, match="shapes"):
    dataset_stats.read(path)
