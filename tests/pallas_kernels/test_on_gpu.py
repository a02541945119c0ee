"""On a CUDA device: each kernel against the float64 oracle, and a training step with the kernels and without.

Run with `pytest -m gpu`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kairos_jax.model import WorldActionModel
from pallas_kernels import dispatch
from pallas_kernels.gated_delta import api as gated_delta_api
from pallas_kernels.gated_delta import gated_delta
from pallas_kernels.window_attention import MaskRule, Span, action_attention, window_attention
from pallas_kernels.window_attention import api as window_api
from tests.model import tiny
from tests.pallas_kernels.gated_delta import base as delta

pytestmark = pytest.mark.gpu
RNG = np.random.default_rng(5)
TOLERANCES = {"float32": (1e-5, 1e-4), "bfloat16": (2e-2, 2e-2)}  # of outputs and of gradients


@pytest.fixture(autouse=True)
def device():
  try:
    found = jax.devices("cuda")
  except RuntimeError as error:
    pytest.skip(f"JAX finds no CUDA device: {str(error).splitlines()[0]}")
  with jax.default_device(found[0]):
    yield


def normal(*shape):
  return RNG.standard_normal(shape)


def actions_and_video():
  actions, video = [normal(2, 11, 2, 64) for _ in "qkv"], [normal(2, 5, 40, 2, 64) for _ in "kv"]
  return [*actions, *video]


# Name -> (entry, implementations, inputs in float64, how many of them the kernel takes in low precision, keywords).
OPS = {
  "gated_delta": (gated_delta, gated_delta_api.IMPLEMENTATIONS, delta.draw(200, 64, 128, gates="of every size"), 3, {}),
  "window_attention": (
    window_attention,
    window_api.IMPLEMENTATIONS,
    [normal(2, 6, 40, 2, 64) for _ in "qkv"],
    3,
    dict(rule=MaskRule(2, 2, all_see_history=True), span=Span(num_observed=np.array([2, 3]))),
  ),
  "action_attention": (
    action_attention,
    window_api.ACTION_IMPLEMENTATIONS,
    actions_and_video(),
    5,
    dict(span=Span(start=np.array([0, 1]), stop=np.array([5, 4]))),
  ),
}


def outputs_and_gradients(fn, inputs):
  """What `fn` returns, in a list, and the gradients of one weighting of it."""

  def loss(*inputs):
    outputs = jax.tree.leaves(fn(*inputs))
    weights = [np.random.default_rng(9 + i).standard_normal(x.shape) for i, x in enumerate(outputs)]
    return sum(jnp.sum(x * jnp.asarray(w, x.dtype)) for x, w in zip(outputs, weights, strict=True)), outputs

  gradients, outputs = jax.jit(jax.grad(loss, argnums=range(len(inputs)), has_aux=True))(*inputs)
  return outputs, gradients


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("op", OPS)
def test_kernel_against_the_oracle(op, dtype):
  entry, implementations, inputs, low, keywords = OPS[op]
  given = [jnp.asarray(x, dtype if i < low else jnp.float32) for i, x in enumerate(inputs)]
  got = outputs_and_gradients(functools.partial(entry, implementation="pallas_gpu", **keywords), given)
  with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
    exact = [jnp.asarray(np.asarray(x, np.float64)) for x in given]
    want = outputs_and_gradients(functools.partial(implementations["reference"], **keywords), exact)
    want = jax.tree.map(np.asarray, want)
  for part, ours, theirs, tolerance in zip(("output", "gradient"), got, want, TOLERANCES[dtype], strict=True):
    assert len(ours) == len(theirs)
    for index, (x, y) in enumerate(zip(ours, theirs, strict=True)):
      assert y.dtype == np.float64
      delta.assert_relative(x, y, tolerance, f"{part} {index}")


def training_step():
  """The loss, and the parameters after one step of Adam, of a model that every kernel can serve."""
  config = tiny.config(key_dim=32, value_dim=64)
  params, model, optimizer = tiny.params(config), WorldActionModel(config), optax.adam(1e-3)
  latents, actions = tiny.latents(6, batch=2, height=8, width=8), tiny.actions(5, batch=2)
  noise, levels = np.array([300.0, 700.0]), np.array([900.0, 200.0])

  def loss(params):
    video, action = model.apply(
      {"params": params}, latents, noise, actions, levels, tiny.context(2), num_observed=2, method="denoise_joint"
    )
    return jnp.mean(jnp.square(video - latents)) + jnp.mean(jnp.square(action - actions))

  @jax.jit
  def step(params, state):
    value, gradients = jax.value_and_grad(loss)(params)
    updates, _ = optimizer.update(gradients, state, params)
    return value, gradients, optax.apply_updates(params, updates)

  compiled = step.lower(params, optimizer.init(params)).compile()
  return compiled.as_text(), compiled(params, optimizer.init(params))


def test_a_training_step_with_kernels_is_one_without(monkeypatch):
  with_kernels, (value, gradients, after) = training_step()
  monkeypatch.setattr(dispatch, "KERNELS", {})
  without, (want_value, want_gradients, want_after) = training_step()
  for kernel in ("gated_delta", "window_attention", "action_attention"):
    assert f"{kernel}_pallas_gpu" in with_kernels and f"{kernel}_pallas_gpu" not in without
  np.testing.assert_allclose(value, want_value, rtol=1e-4)
  scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want_gradients))
  for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(want_gradients), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-3 * scale)
  for ours, theirs in zip(jax.tree.leaves(after), jax.tree.leaves(want_after), strict=True):
    assert np.isfinite(ours).all() and ours.shape == theirs.shape
