"""experiments/finetune.py: what its words give, and a run from an own model with adapters and by a manifest."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from data_pipelines import shards
from data_pipelines.simulate.generate import build, generate
from experiments import changed_robot, finetune
from kairos_jax.interop import saved_model
from kairos_jax.training import curriculum, load_params
from kairos_jax.training.run_config import parse_run
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model")
  saved_model.save(folder, tiny.saved())
  return folder


def short(config):
  config.train.update(steps=1, batch_size=2, log_every=1, checkpoint_every=1)
  return config


@pytest.mark.slow
def test_an_own_model_is_tuned_by_adapters_on_another_robot(model, tmp_path):
  build(tmp_path, dict(turned_robot=2), seed=0, size=16)
  config = short(finetune.get_config(f"lerobot={tmp_path}/turned_robot,lora,from={model}"))
  curriculum.run(config, tmp_path / "run")
  assert set(load_params(tmp_path / "run/robot/checkpoints")) == {"lora"}
  before, after = (saved_model.load(x) for x in (model, tmp_path / "run"))
  assert after.model_config == before.model_config and list(after.embodiments) == ["turned_arm"]
  assert (after.clip_frames, after.action_horizon, after.video_fps) == (9, 4, 10.0)
  for name in ("bridge", "codec"):
    for one, other in zip(*(sorted(_flat(x.params[name]).items()) for x in (before, after)), strict=True):
      np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.slow
def test_the_video_tower_is_tuned_by_the_official_objective(model, tmp_path):
  """On captions alone, as an imported manifest has them."""
  shards.write_shard(generate("physics", 2, seed=0, size=16), tmp_path / "clips", 0)
  shards.finalize(tmp_path / "clips", "clips", 1, {})
  config = short(finetune.get_config(f"manifest={tmp_path}/clips,from={model}"))
  curriculum.run(config, tmp_path / "run")
  assert set(load_params(tmp_path / "run/video/checkpoints")) == {"video"}
  lines = [json.loads(x) for x in (tmp_path / "run/video/metrics.jsonl").read_text().splitlines()]
  assert lines[0]["loss_video"] > 0 and "loss_action" not in lines[0]


@pytest.mark.parametrize("robot", ["libero", "robotwin"])
@pytest.mark.parametrize("lora", ["", ",lora"])
def test_released_shapes(robot, lora):
  config = finetune.get_config(robot + lora)
  config.codec = ConfigDict(dict(kind="wan"))
  config.bridge = ConfigDict(dict(kind="words", text_dim=2048))  # in the place of the folder of a language model
  run = parse_run(config)
  assert run.data.frames == 33 and run.model.action["action_dim"] == {"libero": 7, "robotwin": 14}[robot]
  assert (run.stages["robot"].lora is not None) is bool(lora)


@pytest.mark.parametrize("words", ["lerobot", "libero=x", "libero,lorra", "kitchen"])
def test_other_words_are_refused(words):
  with pytest.raises(ValueError, match="allowed: libero, robotwin, lerobot=PATH or manifest=PATH"):
    finetune.get_config(words)


def test_a_start_that_is_no_saved_model_is_a_released_one(tmp_path):
  config = finetune.get_config(f"libero,from={tmp_path}/wam")
  assert config.init_from == f"{tmp_path}/wam" and (config.codec.kind, config.bridge.kind) == ("wan", "qwen")


@pytest.mark.parametrize("variant", ["full", "lora", "scratch"])
def test_the_changed_robot_s_configs_are_configs(variant):
  assert parse_run(changed_robot.get_config(variant)).order == ("robot",)


def _flat(tree, prefix=""):
  if not isinstance(tree, dict):
    return {prefix: tree}
  return {name: value for key, x in tree.items() for name, value in _flat(x, f"{prefix}/{key}").items()}
