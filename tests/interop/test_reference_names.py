import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from kairos_jax import files
from kairos_jax.errors import KairosError
from kairos_jax.interop.reference_names import from_reference, load_safetensors, save_safetensors, to_reference
from tests.model import tiny

MIXTURE = tiny.config(layers=("SWA", "GATED") * 2)


@pytest.fixture
def tensors():
  return dict(tiny.tensors(MIXTURE))


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_round_trip_is_bit_exact(tensors):
  params = from_reference(tensors, MIXTURE)
  assert_same(params, jax.tree.map(np.asarray, tiny.params(MIXTURE)))
  assert_same(to_reference(params, MIXTURE), tensors)


def test_every_number_has_one_place(tensors):
  """As many numbers there as here, and no tensor of one lies where another's should."""
  assert sum(x.size for x in tensors.values()) == sum(x.size for x in jax.tree.leaves(tiny.params(MIXTURE)))
  groups = tiny.params(MIXTURE)["video"]["groups"]
  np.testing.assert_array_equal(
    tensors["video_dit.blocks.2.ffn.0.weight"], groups["layer_0"]["ffn"]["up"]["kernel"][1].T
  )
  np.testing.assert_array_equal(
    tensors["video_dit.blocks.3.gated_delta.q_conv1d.weight"][:, 0],
    groups["layer_1"]["gated_delta"]["q_conv"][1].T,
  )
  assert tensors["video_dit.patch_embedding.weight"].shape == (24, 3, 1, 2, 2)


def test_converted_parameters_survive_a_file(tensors, tmp_path):
  """They are views of the reference's tensors, most of them transposed."""
  params = {"/".join(path): x for path, x in flatten_dict(from_reference(tensors, MIXTURE)).items()}
  assert not all(x.flags.c_contiguous for x in params.values())
  files.write_safetensors(tmp_path / "weights.safetensors", params)
  assert_same(files.read_safetensors(tmp_path / "weights.safetensors"), params)


@pytest.mark.parametrize("wrapper", ["dit.", "pipe.dit."])
def test_wrappers_of_released_files_are_taken_off(tensors, wrapper):
  wrapped = {wrapper + name: value for name, value in tensors.items()}
  assert_same(from_reference(wrapped, MIXTURE), from_reference(tensors, MIXTURE))


def test_video_only_checkpoints_name_no_tower():
  model_config = tiny.video_only(layers=("SWA",))
  bare = {name.removeprefix("video_dit."): value for name, value in tiny.tensors(model_config).items()}
  assert_same(from_reference(bare, model_config), jax.tree.map(np.asarray, tiny.params(model_config)))


def test_half_precision_is_widened(tensors):
  half = {name: value.astype(np.float16) for name, value in tensors.items()}
  params = from_reference(half, MIXTURE)
  assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(np.float32)}
  assert_same(to_reference(params, MIXTURE), {name: x.astype(np.float32) for name, x in half.items()})


@pytest.mark.parametrize(
  ("harm", "says"),
  [
    (lambda t: t.pop("action_dit.head.bias"), r"lacks 'action_dit.head.bias' \[4\]$"),
    (lambda t: [t.pop(f"video_dit.blocks.{i}.self_attn.q.bias") for i in (0, 2)], "and 1 more"),
    (lambda t: t.update({"video_dit.img_emb.weight": np.zeros(2)}), "1 tensors .* 'video_dit.img_emb.weight'"),
    (
      lambda t: t.update({"action_dit.head.bias": np.zeros(5)}),
      r"'action_dit.head.bias' is \[5\]; the model needs \[4\]",
    ),
    (lambda t: t.update({"video_dit.blocks.2.ffn.0.bias": np.zeros(5)}), r"blocks.2.ffn.0.bias' is \[5\]"),
    (lambda t: t.update({"video_dit.patch_embedding.weight": np.ones((24, 12))}), r"needs \[24, 3, 1, 2, 2\]"),
  ],
  ids=["missing", "missing in every group", "unknown", "misshaped", "misshaped in one group", "of another rank"],
)
def test_wrong_checkpoints_are_named_in_one_line(tensors, harm, says):
  harm(tensors)
  with pytest.raises(KairosError, match=says) as caught:
    from_reference(tensors, MIXTURE)
  assert "\n" not in str(caught.value)


def test_files_and_shards(tmp_path):
  params = jax.tree.map(np.asarray, tiny.params(MIXTURE))
  save_safetensors(tmp_path / "all.safetensors", params, MIXTURE)
  assert_same(load_safetensors(tmp_path / "all.safetensors", MIXTURE), params)
  assert_same(load_safetensors(tmp_path, MIXTURE), params)
  (tmp_path / "torn.safetensors").write_bytes(b"\xff" * 20)
  for name, says in (("torn", "not a readable"), ("none", "no safetensors")):
    with pytest.raises(KairosError, match=says):
      load_safetensors(tmp_path / f"{name}.safetensors", MIXTURE)
