"""A stage that trains adapters: what is optimized and saved, and the model and the file that come of it."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from data_pipelines.simulate.generate import build
from kairos_jax.errors import KairosError
from kairos_jax.interop import adapters as adapters_file
from kairos_jax.interop import reference_names, saved_model
from kairos_jax.model import lora
from kairos_jax.training import curriculum, load_params
from tests.training.test_released_codec import config_of

pytestmark = pytest.mark.slow
LORA = dict(rank=2, alpha=4.0, targets=("video/*/self_attn/?", "action/*/ffn/*"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """A run's folder, with data, a model, and its towers as an official file."""
  folder = tmp_path_factory.mktemp("base")
  build(folder / "data", dict(robot=3), seed=0, size=16)
  curriculum.run(config_of(folder, kind="pca", channels=4), folder / "run")
  saved = saved_model.load(folder / "run")
  reference_names.save_safetensors(folder / "official.safetensors", _towers(saved.params), saved.model_config)
  return folder


def _towers(params):
  return {name: params[name] for name in ("video", "action")}


def tuned(base, **stage):
  config = config_of(base, kind="pca", channels=4)
  config.init_from = f"{base}/official.safetensors, {base}/run"
  config.stages.robot.update(ConfigDict(stage))
  config.stages.robot.optimizer.peak_lr = 0.05
  return config


def test_adapters_alone_are_trained_and_saved_and_merged_in_the_model(base, tmp_path):
  curriculum.run(tuned(base, lora=LORA), tmp_path)
  before, after = (saved_model.load(folder).params for folder in (base / "run", tmp_path))
  state = load_params(tmp_path / "robot/checkpoints")
  assert set(state) == {"lora"}
  adapters, scale = adapters_file.load(tmp_path / "robot/adapters.safetensors", _config(tmp_path), before)
  assert scale == 2.0
  jax.tree.map(np.testing.assert_array_equal, adapters, state["lora"])
  assert max(np.abs(x).max() for path, x in flatten_dict(adapters).items() if path[-1] == "up") > 0
  jax.tree.map(np.testing.assert_array_equal, lora.merge(before, adapters, scale), after)


def test_named_parameters_train_beside_the_adapters(base, tmp_path):
  curriculum.run(tuned(base, lora={**LORA, "beside": ("action/head/*",)}), tmp_path)
  state = load_params(tmp_path / "robot/checkpoints")
  assert set(state) == {"lora", "action"} and set(state["action"]) == {"head"}
  before, after = (saved_model.load(folder).params for folder in (base / "run", tmp_path))
  assert not np.array_equal(before["action"]["head"]["kernel"], after["action"]["head"]["kernel"])
  np.testing.assert_array_equal(
    before["action"]["time"]["projection"]["kernel"], after["action"]["time"]["projection"]["kernel"]
  )


def test_parts_come_from_the_first_start_that_has_them_and_some_can_be_made_anew(base, tmp_path):
  config = tuned(base, frozen=("video/*", "bridge/*", "action/text_embedding/*"))
  config.init_new = ("action/text_embedding/up/*",)
  curriculum.run(config, tmp_path)
  before, after = (saved_model.load(folder).params for folder in (base / "run", tmp_path))
  for part in ("video", "bridge", "codec"):
    jax.tree.map(np.testing.assert_array_equal, before[part], after[part])
  (one, other) = (params["action"]["text_embedding"] for params in (before, after))
  np.testing.assert_array_equal(one["down"]["kernel"], other["down"]["kernel"])
  assert not np.allclose(one["up"]["kernel"], other["up"]["kernel"], atol=1e-3)


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    (dict(lora={**LORA, "targets": ("video/*/self_attn/w",)}), "lora target 'video/.*' matches no matrix"),
    (dict(lora={**LORA, "beside": ("action/hed/*",)}), "trained pattern 'action/hed/.*' matches no parameter"),
    (dict(lora=LORA, frozen=("bridge/*",)), "stages.robot.frozen is .*allowed: .. beside lora"),
    (dict(lora={**LORA, "rank": 0}), "stages.robot.lora.rank is 0"),
  ],
)
def test_mistakes_are_one_line(base, tmp_path, changes, says):
  with pytest.raises(KairosError, match=says):
    curriculum.run(tuned(base, **changes), tmp_path)


def test_a_pattern_of_new_parameters_that_matches_nothing_is_told(base, tmp_path):
  config = tuned(base)
  config.init_new = ("action/hed/*",)
  with pytest.raises(KairosError, match="config key init_new: 'action/hed/.*' matches nothing"):
    curriculum.run(config, tmp_path)


def _config(folder):
  return saved_model.load(folder).model_config
