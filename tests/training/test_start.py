"""What a run starts from, and the account of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kairos_jax import files
from kairos_jax.errors import KairosError
from kairos_jax.interop import reference_names, saved_model
from kairos_jax.model.world_action import init_params
from kairos_jax.training import start
from kairos_jax.training.best import BestCheckpoint
from kairos_jax.training.checkpoint import Checkpoints
from kairos_jax.training.start import Row
from kairos_jax.training.state import create
from tests import tiny


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, a), jax.tree.map(np.asarray, b))


def test_a_saved_model(tmp_path, tiny_saved):
  saved_model.save(tmp_path / "model", tiny_saved)
  for folder in (tmp_path, tmp_path / "model"):
    equal(start.load(folder, tiny_saved.model_config), tiny_saved.params)


def test_a_stage_brings_its_averages_and_the_codec_of_its_run(tmp_path, tiny_saved):
  params = {name: tiny_saved.params[name] for name in ("bridge", "video")}
  state = create(params, optax.sgd(0.1), jax.random.key(0))
  state = state.replace(step=jnp.int32(3), ema=jax.tree.map(lambda x: x + 1, params))
  with Checkpoints(tmp_path / "hand/checkpoints", max_to_keep=1) as checkpoints:
    checkpoints.save(state, {})
  codec = {"first": {"mean": np.arange(3.0, dtype=np.float32)}}
  files.write_safetensors(tmp_path / "codec.safetensors", {"first/mean": codec["first"]["mean"]})
  with BestCheckpoint(tmp_path / "hand/best", "val/video") as best:
    best.offer(state.replace(ema=params), {"val/video": 1.0})
  equal(start.load(tmp_path / "hand", tiny_saved.model_config), {**state.ema, "codec": codec})
  equal(start.load(tmp_path / "hand/best", tiny_saved.model_config), {**params, "codec": codec})


@pytest.mark.parametrize("with_actions", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_released_file(tmp_path, with_actions):
  towers = tiny.model_config()
  released = towers if with_actions else dataclasses.replace(towers, action=None)
  params = jax.jit(lambda key: init_params(released, key))(jax.random.key(1))
  reference_names.save_safetensors(tmp_path / "model.safetensors", params, released)
  for path in (tmp_path, tmp_path / "model.safetensors"):
    equal(start.load(path, towers), params)


def test_nothing_to_start_from_is_one_line(tmp_path):
  with pytest.raises(KairosError, match="config key init_from is .*/no'; allowed: a run's stage, a saved model"):
    start.load(tmp_path / "no", tiny.model_config())


def test_taken_grown_new_and_left():
  fresh = {
    "video": {"head": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}, "extra": jnp.zeros(4)},
    "action": {"head": {"kernel": jnp.ones((5, 2))}},
  }
  given = {
    "video": {"head": {"kernel": np.full((2, 3), 7.0), "bias": np.arange(3.0)}},
    "old": {"head": {"kernel": np.ones((6, 6))}},
  }
  taken, rows = start.take(fresh, given, "runs/x", grown=("action",))
  assert rows == [
    Row("video/head", "taken", 2, 9),
    Row("video/extra", "new", 1, 4),
    Row("action/head", "grown", 1, 10),
    Row("old/head", "left", 1, 36),
  ]
  np.testing.assert_array_equal(taken["video"]["head"]["kernel"], np.full((2, 3), 7.0))
  assert taken["video"]["head"]["bias"].dtype == jnp.float32 and set(taken) == {"video", "action"}
  printed = start.table(rows, "runs/x")
  assert "from runs/x" in printed and all(row.name in printed and row.what in printed for row in rows)


def test_another_shape_is_one_line():
  with pytest.raises(KairosError, match=r"init_from runs/x: video/kernel is \(3, 2\) there and \(2, 3\) here"):
    start.take({"video": {"kernel": jnp.zeros((2, 3))}}, {"video": {"kernel": np.zeros((3, 2))}}, "runs/x")
