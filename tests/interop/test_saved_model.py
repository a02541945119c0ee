import dataclasses
import json

import jax
import numpy as np
import pytest

from data_pipelines.normalize import Normalizer
from kairos_jax import files
from kairos_jax.bridge import QwenBridge
from kairos_jax.errors import KairosError
from kairos_jax.interop import saved_model
from tests.understanding import folder as qwen_folder


@pytest.fixture
def model(tiny_saved):
  limits = Normalizer("min_max", np.array([-1.0, 0.0, 0.25], np.float32), np.array([2.0, 1.0, 0.75], np.float32))
  robot = dataclasses.replace(tiny_saved.embodiments["slide_arm"], action=limits)
  return dataclasses.replace(tiny_saved, embodiments={"slide_arm": robot})


def test_what_is_saved_is_loaded(tmp_path, model):
  """Bit-exact, from the folder itself and from the run's folder around it."""
  saved_model.save(tmp_path / "model", model)
  for folder in (tmp_path, tmp_path / "model"):
    loaded = saved_model.load(folder)
    for field in ("model_config", "codec", "encoder", "video_fps", "frame_size", "clip_frames", "action_horizon"):
      assert getattr(loaded, field) == getattr(model, field), field
    jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)
    for feature in ("action", "state"):
      x = np.linspace(-1, 1, 3, dtype=np.float32)
      got, want = (getattr(m.embodiments["slide_arm"], feature).normalize(x) for m in (loaded, model))
      np.testing.assert_array_equal(got, want)
    assert loaded.embodiments["slide_arm"].embodiment == model.embodiments["slide_arm"].embodiment


def test_a_model_without_actions(tmp_path, model):
  params = {name: model.params[name] for name in ("video", "bridge", "codec")}
  model_config = dataclasses.replace(model.model_config, action=None)
  saved_model.save(tmp_path, dataclasses.replace(model, model_config=model_config, params=params))
  loaded = saved_model.load(tmp_path)
  assert loaded.model_config.action is None and set(loaded.params) == {"video", "bridge", "codec"}


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_unfinished_and_damaged_models_are_refused_in_one_line(tmp_path, model, name):
  saved_model.save(tmp_path, model)
  (tmp_path / name).write_bytes(b"\xff" * 16)
  with pytest.raises(KairosError) as damaged:
    saved_model.load(tmp_path)
  (tmp_path / name).unlink()
  with pytest.raises(KairosError, match=f"{name} is missing") as unfinished:
    saved_model.load(tmp_path)
  for caught in (damaged, unfinished):
    assert "\n" not in str(caught.value)


def test_a_description_of_another_kind_is_refused(tmp_path, model):
  saved_model.save(tmp_path, model)
  description = json.loads((tmp_path / "model.json").read_text())
  description["video"]["windows"] = 3
  (tmp_path / "model.json").write_text(json.dumps(description))
  with pytest.raises(KairosError, match="windows"):
    saved_model.load(tmp_path)


def test_a_model_is_named_by_its_content(tiny_saved, tmp_path):
  name = saved_model.content_hash(tiny_saved)
  saved_model.save(tmp_path, tiny_saved)
  assert saved_model.content_hash(saved_model.load(tmp_path)) == name and len(name) == 64
  weights = jax.tree.map(lambda x: x, tiny_saved.params)
  leaf = weights["codec"]["first"]["mean"]
  weights["codec"]["first"]["mean"] = leaf.at[-1].add(1e-3)
  for other in (dict(params=weights), dict(clip_frames=13)):
    assert saved_model.content_hash(dataclasses.replace(tiny_saved, **other)) != name


@pytest.fixture
def with_qwen(model, tmp_path):
  qwen_folder.write(tmp_path / "qwen", "qwen3_5")
  encoder = QwenBridge(str(tmp_path / "qwen"), tokens=128, dtype="float32")
  return dataclasses.replace(model, encoder=encoder, params=model.params | {"bridge": encoder.init(jax.random.key(0))})


def test_an_encoder_that_comes_trained_is_kept_by_its_folder_and_hash(tmp_path, with_qwen):
  saved_model.save(tmp_path / "model", with_qwen)
  written = files.read_safetensors(tmp_path / "model/weights.safetensors")
  assert written and not any(name.startswith("bridge/") for name in written)
  loaded = saved_model.load(tmp_path / "model")
  jax.tree.map(np.testing.assert_array_equal, loaded.params, with_qwen.params)
  assert saved_model.content_hash(loaded) == saved_model.content_hash(with_qwen)
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), with_qwen.params["bridge"])
  assert with_qwen.encoder.param_shapes() == shapes

  qwen_folder.write(tmp_path / "qwen", "qwen3_5", seed=1)
  with pytest.raises(KairosError, match="goes with the weights [0-9a-f]{12} of its bridge; [0-9a-f]{12} lie at .*qwen"):
    saved_model.load(tmp_path / "model")


def test_an_encoder_that_was_trained_further_is_written_and_its_folder_not_read(tmp_path, with_qwen, monkeypatch):
  bridge = jax.tree.map(lambda x: x + 1, with_qwen.params["bridge"])
  changed = dataclasses.replace(with_qwen, params=with_qwen.params | {"bridge": bridge})
  saved_model.save(tmp_path / "model", changed)
  monkeypatch.setattr(QwenBridge, "init", lambda self, key: pytest.fail("the folder's weights were read"))
  jax.tree.map(np.testing.assert_array_equal, saved_model.load(tmp_path / "model").params, changed.params)
