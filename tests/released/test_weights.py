"""Official files to a model that sees, acts and imagines; what is wrong with them is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import kairos_jax
from kairos_jax import files, shards
from kairos_jax.errors import KairosError
from kairos_jax.interop import reference_names
from kairos_jax.released import catalog, weights
from tests.released import official

WAM, V1 = "kairos-4B-robot-RoboTwin2.0@tiny", "kairos-sensenova-robot-4B-480P-distilled@tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("models")
  official.write(path, WAM)
  return path


@pytest.mark.slow
def test_a_loaded_model_sees_acts_and_imagines(folder):
  model = kairos_jax.load(WAM, weights=folder, dtype="float32")
  frames = np.random.default_rng(0).integers(0, 256, (5, 32, 16, 3), np.uint8)
  stream = model.prefill(frames[:1], "a red robot arm")
  actions = model.act(stream, np.zeros(14, np.float32), steps=2)
  assert actions.shape == (32, 14) and np.isfinite(actions).all()
  stream = model.extend(stream, frames[1:])
  assert model.imagine(stream, 4, steps=1).shape == (1, 4, 32, 16, 3)


@pytest.mark.parametrize(("name", "shards"), [(WAM, 2), (V1, 1), (V1, 3)])
def test_every_number_lies_where_the_official_loader_puts_it(tmp_path, name, shards):
  model, tensors = catalog.find(name), official.tower(name)
  file = tmp_path / model.config.files[0]
  official.write_tower(file, tensors, shards)
  places = [file] if shards == 1 else sorted(tmp_path.glob("part-*"))
  got = weights.load_towers(model, places, "bfloat16")
  assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype(jnp.bfloat16)}
  back = reference_names.to_reference(got, model.model_config, bare=model.config.bare)
  assert back.keys() == tensors.keys()
  for key, value in tensors.items():
    np.testing.assert_array_equal(back[key].astype(np.float32), value.astype(np.float32), err_msg=key)
  wide = flatten_dict(weights.load_towers(model, places, "float32"))
  for path, value in flatten_dict(got).items():
    np.testing.assert_array_equal(wide[path], value.astype(jnp.float32))


HARMS = {
  "missing": (lambda t: t.pop("action_dit.head.bias"), r"lacks the tensor 'action_dit.head.bias' \[14\]$"),
  "unknown": (
    lambda t: t.update({"video_dit.extra": np.zeros((2, 3), np.float32)}),
    r"1 tensors that the model has no place for, first 'video_dit.extra' \[2, 3\]",
  ),
  "misshaped": (
    lambda t: t.update({"action_dit.head.bias": np.zeros(5, np.float32)}),
    r"2.0.safetensors: 'action_dit.head.bias' is \[5\]; the model needs \[14\]",
  ),
  "whole numbers": (
    lambda t: t.update({"action_dit.head.bias": np.zeros(14, np.int32)}),
    "'action_dit.head.bias' is int32",
  ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_wrong_file_is_named_with_its_tensor(tmp_path, harm):
  change, says = HARMS[harm]
  model, tensors = catalog.find(WAM), official.tower(WAM)
  change(tensors)
  file = tmp_path / model.config.files[0]
  official.write_tower(file, tensors)
  with pytest.raises(KairosError, match=says) as caught:
    weights.load_towers(model, [file], "float32")
  assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_truncated_file_names_the_first_tensor_that_is_gone(tmp_path):
  model = catalog.find(WAM)
  file = tmp_path / model.config.files[0]
  official.write_tower(file, official.tower(WAM))
  file.write_bytes(file.read_bytes()[:-10])
  with pytest.raises(KairosError, match=r"is cut short: '.*' \[.*\] ends at byte \d+ and the file has \d+"):
    weights.load_towers(model, [file], "float32")
  file.write_bytes(b"\xff" * 20)
  with pytest.raises(KairosError, match="cut short: its list of tensors takes .* and the file has 20"):
    weights.load_towers(model, [file], "float32")


def test_a_missing_shard_and_a_missing_part_are_named(tmp_path, folder):
  model = catalog.find(WAM)
  with pytest.raises(KairosError, match="lacks the towers; allowed: kairos-4B-robot-RoboTwin2.0.safetensors, "):
    kairos_jax.load(WAM, weights=tmp_path)
  file = tmp_path / model.config.files[0]
  official.write_tower(file, official.tower(WAM), 2)
  with pytest.raises(KairosError, match="lacks the video autoencoder"):
    kairos_jax.load(WAM, weights=tmp_path)
  (tmp_path / "part-1.safetensors").unlink()
  with pytest.raises(KairosError, match="part-1.safetensors does not exist; .*index.json names it"):
    shards.shards_of(tmp_path / f"{file.name}.index.json")
  with pytest.raises(KairosError, match="dtype is 'float8'; allowed: float32, bfloat16"):
    kairos_jax.load(WAM, weights=folder, dtype="float8")


def test_no_tensor_comes_twice(tmp_path):
  for name in ("a", "b"):
    files.write_safetensors(tmp_path / f"{name}.safetensors", {"video_dit.x": np.zeros(2, np.float32)})
  with pytest.raises(KairosError, match="b.safetensors: 'video_dit.x' is also in .*a.safetensors"):
    shards.list_tensors([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
