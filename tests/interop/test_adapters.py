"""Adapters in a file: the names, the layout, the round trip, and what is wrong with a file."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from kairos_jax import files
from kairos_jax.errors import KairosError
from kairos_jax.interop import adapters as adapters_lib
from kairos_jax.interop import reference_names
from kairos_jax.model import lora
from tests.model import tiny

TOWERS = tiny.config(layers=("SWA", "GATED") * 2)
SCALE = 0.8


@pytest.fixture
def written(tmp_path):
  config = lora.Lora(3, 2.4, ("video/*/ffn/up", "action/*/self_attn/o", "video/*/gated_delta/q_proj"))
  fresh = lora.init(tiny.params(TOWERS), config, jax.random.key(0))
  rng = np.random.default_rng(0)
  thin = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), fresh)
  adapters_lib.save(tmp_path / "a.safetensors", thin, config.scale, TOWERS)
  return tmp_path / "a.safetensors", thin


def test_the_round_trip_is_exact(written):
  path, thin = written
  got, scale = adapters_lib.load(path, TOWERS, tiny.params(TOWERS))
  assert scale == pytest.approx(SCALE, rel=1e-6)
  assert flatten_dict(got).keys() == flatten_dict(thin).keys()
  jax.tree.map(np.testing.assert_array_equal, got, thin)


def test_another_program_that_adds_b_a_to_the_reference_s_matrices_gets_the_merged_model(written):
  """W + alpha / r B A, tensor by tensor of the official file."""
  path, thin = written
  tensors, params = files.read_safetensors(path), tiny.params(TOWERS)
  official = dict(reference_names.to_reference(params, TOWERS))
  for name in [name for name in tensors if name.endswith("lora_A.weight")]:
    stem = name.removesuffix("lora_A.weight")
    down, up, alpha = tensors[name], tensors[stem + "lora_B.weight"], tensors[stem + "alpha"]
    official[stem + "weight"] = official[stem + "weight"] + alpha / len(down) * up @ down
  want = reference_names.to_reference(lora.merge(params, thin, SCALE), TOWERS)
  changed = [name for name in want if not np.array_equal(want[name], tiny.tensors(TOWERS)[name])]
  assert len(changed) == 2 * (2 + 2 + 1)  # two groups; both layers' ffn and o, one delta net
  for name in want:
    np.testing.assert_allclose(official[name], want[name], atol=2e-6)


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (lambda t: t.pop("video_dit.blocks.2.ffn.0.lora_B.weight"), r"lacks 'video_dit.blocks.2.ffn.0.lora_B.weight'"),
    (lambda t: t.pop("video_dit.blocks.2.ffn.0.alpha"), r"lacks 'video_dit.blocks.2.ffn.0.alpha'"),
    (lambda t: t.update({"video_dit.blocks.0.ffn.7.lora_A.weight": np.ones((2, 3))}), "no place for, first .*ffn.7"),
    (
      lambda t: t.update({"video_dit.blocks.0.ffn.0.lora_A.weight": np.ones((3, 9), np.float32)}),
      r"'video_dit.blocks.0.ffn.0.lora_A.weight' is \(3, 9\); the model needs \(3, 24\)",
    ),
    (lambda t: t.update({"video_dit.blocks.0.ffn.0.alpha": np.float32(9)}), "adapters of scales"),
    (lambda t: t.clear() or t.update(x=np.ones(1)), "no place for, first 'x'"),
  ],
)
def test_what_is_wrong_with_a_file_is_named(written, change, says):
  path, _ = written
  tensors = files.read_safetensors(path)
  change(tensors)
  files.write_safetensors(path, tensors)
  with pytest.raises(KairosError, match=says):
    adapters_lib.load(path, TOWERS, tiny.params(TOWERS))
