"""ONNX: the same numbers under onnxruntime; skipped where the converter, which has its own environment, is not."""

import importlib.util

import jax
import numpy as np
import pytest

from kairos_jax.errors import KairosError
from kairos_jax.export import onnx
from kairos_jax.runtime import WorldModel
from tests import tiny

INPUTS = 100
needs_converter = pytest.mark.skipif(
  not all(map(importlib.util.find_spec, ("jax2onnx", "onnxruntime"))), reason="needs jax2onnx and onnxruntime"
)


@pytest.fixture(scope="module")
def model(tiny_saved):
  return WorldModel(tiny_saved)


def draw(one, seed):
  """Inputs of a pass: noise; a memory of some frames; a mask that leaves some words out."""
  rng, inputs = np.random.default_rng(seed), []
  for name, shape in zip(one.inputs, one.shapes, strict=True):
    values = rng.standard_normal(shape.shape)
    if name == "timestep":
      values = rng.uniform(0, 1000, shape.shape)
    elif name == "mask":
      values = np.arange(shape.shape[1])[None] < rng.integers(1, shape.shape[1] + 1)
    elif name == "position":
      values = rng.integers(1, 3000, shape.shape)
    inputs.append(np.asarray(values, shape.dtype))
  return inputs


@pytest.mark.parametrize("name", ["act_step", "extend"])
def test_the_passes_are_the_models(model, name):
  """What is converted is what the model computes: a memory and its step, beside `WorldModel`."""
  one = onnx.passes(model)[name]
  stream = model.prefill(tiny.frames(9), "push")
  memory, tokens = jax.tree.leaves(stream.memory), stream.context.tokens
  words = tokens, np.asarray(stream.context.mask, np.float32)
  if name == "extend":
    latents = model.imagine_latents(stream, 1)
    got = jax.jit(one.function)(latents, *words, *memory)
    want = jax.tree.leaves(model.extend_latents(stream, latents).memory)
  else:
    rng = np.random.default_rng(0)
    actions, now, state = rng.standard_normal((1, 4, 3)), np.full(1, 300.0), rng.standard_normal((1, 3))
    actions, now, state = (np.asarray(x, np.float32) for x in (actions, now, state))
    got = [jax.jit(one.function)(actions, now, state, *words, *memory)]
    towers = {"params": model.params}
    context = model.model.apply(towers, stream.context, state, method="with_state")
    want = [model.model.apply(towers, stream.memory, actions, now, context, method="denoise_actions")]
  assert len(one.outputs) == len(got) == len(want)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


@needs_converter
def test_onnxruntime_gives_the_same_numbers(model, tmp_path):
  import onnxruntime

  written = onnx.export(model, tmp_path)
  assert set(written) == {"act_step.onnx", "extend.onnx"}
  for name, one in onnx.passes(model).items():
    session = onnxruntime.InferenceSession(written[f"{name}.onnx"], providers=["CPUExecutionProvider"])
    ours = jax.jit(one.function)
    assert [x.name for x in session.get_inputs()] == list(one.inputs)
    for seed in range(INPUTS):
      inputs = draw(one, seed)
      got = session.run(None, dict(zip(one.inputs, inputs, strict=True)))
      for a, b in zip(got, jax.tree.leaves(ours(*inputs)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("jax2onnx") is not None, reason="the converter is here")
def test_a_missing_converter_is_named(model, tmp_path):
  with pytest.raises(KairosError, match=r"needs jax2onnx: pip install 'kairos-jax\[onnx\]'"):
    onnx.export(model, tmp_path)
