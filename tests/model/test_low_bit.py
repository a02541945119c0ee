"""Towers in few bits: what is quantized, how far it may be off, and that a saved model is the same again."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from kairos_jax.errors import KairosError
from kairos_jax.interfaces import Context
from kairos_jax.interop import saved_model
from kairos_jax.model import WorldActionConfig, WorldActionModel, low_bit
from kairos_jax.model.low_bit import LowBit
from kairos_jax.model.world_action import init_params
from kairos_jax.released.catalog import find, names
from kairos_jax.training import start


@pytest.fixture(scope="module", params=low_bit.KINDS)
def quantized(request, tiny_saved):
  params = low_bit.quantize(tiny_saved.params, request.param)
  return dataclasses.replace(tiny_saved, params=params, low_bit=LowBit(request.param, "float32"))


def test_large_matrices_alone_are_quantized(quantized):
  named = flatten_dict(quantized.params, sep="/")
  narrow = {name for name, value in named.items() if low_bit.is_quantized(value)}
  assert "video/groups/layer_0/self_attn/q/kernel" in narrow
  assert "action/groups/layer_2/ffn/down/kernel" in narrow
  assert "video/groups/layer_2/gated_delta/v_proj/kernel" in narrow
  for name in set(named) - narrow:
    kept = ("a_proj", "b_proj", "g_proj", "embedding", "head", "norm", "bias", "modulation", "conv", "projection")
    whole = (*kept, "encoder", "A_log", "dt_bias", "codec", "bridge")
    assert any(word in name for word in whole), name
  assert not any("gated_delta/" in name and name.split("/")[-2] in ("a_proj", "b_proj", "g_proj") for name in narrow)


def test_a_number_is_off_by_half_a_step_at_most(quantized, tiny_saved):
  """The oracle in numpy: the largest of a column, or of a group of it, is the end of the range."""
  steps, group = {"int8": (127.5, 16), "int4": (7.5, 16)}[quantized.low_bit.kind]
  whole = np.asarray(tiny_saved.params["video"]["groups"]["layer_0"]["self_attn"]["k"]["kernel"], np.float64)
  narrow = quantized.params["video"]["groups"]["layer_0"]["self_attn"]["k"]["kernel"]
  scale = np.abs(whole).reshape(1, -1, group, whole.shape[-1]).max(axis=2, keepdims=True) / steps
  error = np.abs(np.asarray(low_bit.dequantize(narrow)) - whole).reshape(1, -1, group, whole.shape[-1])
  assert (error <= 0.501 * scale).all() and error.max() > 0


def test_groups_have_scales_of_their_own():
  rng = np.random.default_rng(0)
  matrix = rng.standard_normal((3, 384, 5)).astype(np.float32) * np.repeat([1, 100, 0.01], 128)[:, None]
  narrow = low_bit.quantize_matrix(jnp.asarray(matrix), "int4")
  assert narrow.scale.shape == (3, 3, 5)
  error = np.abs(np.asarray(low_bit.dequantize(narrow)) - matrix).reshape(3, 3, 128, 5).max(axis=(0, 2, 3))
  assert (error < np.abs(matrix).reshape(3, 3, 128, 5).max(axis=(0, 2, 3)) / 14).all()


def test_the_model_computes_what_the_dequantized_matrices_give(quantized):
  """So nothing of the towers reads the whole numbers in another way."""
  model, rng = WorldActionModel(quantized.model_config), np.random.default_rng(2)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))  # noqa: E731
  inputs = (draw(1, 3, 2, 2, 4), jnp.ones(1), draw(1, 4, 3), jnp.full(1, 500.0), Context(draw(1, 5, 16)))
  run = jax.jit(lambda params: model.apply({"params": params}, *inputs, num_observed=1, method="denoise_joint"))
  towers = {name: quantized.params[name] for name in ("video", "action")}
  for one, other in zip(run(towers), run(low_bit.dequantize_all(towers)), strict=True):
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_the_video_tower_attends_in_8_bits(tiny_saved):
  """Near the whole model, and not the same."""
  rng, draw = np.random.default_rng(3), []
  for shape in ((1, 5, 4, 4, 4), (1, 5, 16)):
    draw.append(jnp.asarray(rng.standard_normal(shape, np.float32)))
  found = []
  for kernels in ("xla", "low_bit"):
    config = dataclasses.replace(tiny_saved.model_config.video, kernels=kernels)
    model = WorldActionModel(WorldActionConfig(config, None))
    run = jax.jit(functools.partial(model.apply, num_observed=2, method="denoise_video"))
    found.append(np.asarray(run({"params": tiny_saved.params}, draw[0], jnp.full(1, 500.0), Context(draw[1]))))
  off = np.linalg.norm(found[1] - found[0]) / np.linalg.norm(found[0])
  assert 1e-5 < off < 0.05


def test_what_is_saved_is_loaded(quantized, tmp_path):
  saved_model.save(tmp_path, quantized)
  loaded = saved_model.load(tmp_path)
  assert loaded.low_bit == quantized.low_bit
  assert jax.tree.structure(loaded.params) == jax.tree.structure(quantized.params)
  jax.tree.map(np.testing.assert_array_equal, low_bit.flatten(loaded.params), low_bit.flatten(quantized.params))
  assert saved_model.content_hash(loaded) == saved_model.content_hash(quantized)


def test_odd_numbers_of_four_bits_are_packed():
  values = np.random.default_rng(1).integers(-8, 8, (3, 5, 7)).astype(jnp.int4)
  packed = low_bit.pack(values)
  assert packed.shape == (53,) and packed.dtype == np.uint8
  np.testing.assert_array_equal(low_bit.unpack(packed, values.shape), values)


def test_it_cannot_be_trained_further(quantized, tmp_path):
  saved_model.save(tmp_path, quantized)
  with pytest.raises(KairosError, match="cannot be trained further"):
    start.load(tmp_path, quantized.model_config)


def test_unknown_kinds_are_refused(quantized, tmp_path):
  saved_model.save(tmp_path, dataclasses.replace(quantized, low_bit=LowBit("int3", "float32")))
  with pytest.raises(KairosError, match="low_bit.kind is 'int3'; allowed: int8, int4"):
    saved_model.load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "most", "letter"), [("int8", 0.55, "s8["), ("int4", 0.32, "s4[")])
def test_parameter_bytes_at_the_released_shape_by_the_compilers_account(kind, most, letter):
  """A pass of both towers, so that all parameters are among the program's arguments; nothing is allocated."""
  config = find(next(name for name in names() if find(name).model_config.action)).computing_in("bfloat16")
  shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
  whole = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), shapes)
  narrow = low_bit.quantized_shapes(shapes, LowBit(kind, "bfloat16"))
  sizes = []
  for params in (whole, narrow):
    compiled = jax.jit(functools.partial(_pass, config)).lower(params).compile()
    sizes.append(compiled.memory_analysis().argument_size_in_bytes)
  assert letter in compiled.as_text()
  print(f"{kind}: {sizes[1]:,} of {sizes[0]:,} bytes, {sizes[1] / sizes[0]:.4f}")
  assert sizes[1] / sizes[0] <= most


def _pass(config, params):
  video, action = config.video, config.action
  now = jnp.zeros(1)
  inputs = (jnp.zeros((1, 2, 4, 4, video.channels)), now, jnp.zeros((1, 8, action.action_dim)), now)
  model = WorldActionModel(config)
  context = model.apply(
    {"params": params},
    Context(jnp.zeros((1, 4, video.text_dim))),
    jnp.zeros((1, action.state_dim)),
    method="with_state",
  )
  return model.apply({"params": params}, *inputs, context, num_observed=1, method="denoise_joint")
