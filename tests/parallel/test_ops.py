"""Operations on eight simulated devices give what they give on one: outputs and every gradient."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from pallas_kernels.gated_delta import gated_delta, short_convolution
from pallas_kernels.window_attention import MaskRule, Span, action_attention, window_attention
from pallas_kernels.window_attention.halo import make_halo
from tests.parallel import devices

MESHES = {"seq8": dict(seq=8), "seq4-tensor2": dict(seq=4, tensor=2)}
RULES = {
  "sliding": MaskRule(2),
  "dilated": MaskRule(3, 2),
  "causal": MaskRule(3, 3, causal_history=True),
  "full": MaskRule(),
  "history": MaskRule(2, all_see_history=True),
  "anchors": MaskRule(2, anchors=1),
}


@pytest.mark.slow  # the towers on "seq" alone, and a random mesh, are held to one device in every run
@pytest.mark.parametrize("mesh", ["seq8", "seq4-tensor2"])
def test_ops_equal_one_device(mesh):
  errors = json.loads(devices.run("tests.parallel.test_ops", mesh).splitlines()[-1])
  assert errors and all(error < 1e-5 for error in errors.values()), errors


def test_the_halo_holds_what_may_be_seen_and_nothing_else():
  halo = make_halo(MaskRule(3, 4), 3, 8)
  wanted = {hop.distance * 3 + f for hop in halo.hops for f in hop.frames}
  assert wanted == {-8, -7, -6, -4, -3, -2, 4, 5, 6, 8, 9, 10} and (halo.back, halo.ahead) == (8, 8)


def test_the_halo_does_not_grow_with_the_clip():
  for rule, most in ((MaskRule(3), 4), (MaskRule(3, 4), 16)):
    counts = [sum(len(hop.frames) for hop in make_halo(rule, frames, 64).hops) for frames in (1, 2, 5, 32, 64)]
    assert max(counts) == counts[-1] == most


def cases(rng):
  """Name, function and inputs of each."""
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
  unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
  batch, heads = 4, 2
  frames = 16
  clip = (batch, frames, 3, heads, 4)
  num_observed, stop = jnp.array([0, 3, 7, 16]), jnp.array([16, 15, 9, 16])
  real = (jnp.arange(frames) < stop[:, None])[:, :, None, None, None]  # what padding reads is nothing that is promised
  for name, rule in RULES.items():

    def alone(q, k, v, rule=rule):
      return window_attention(q, k, v, rule, Span(num_observed, None, stop)) * real

    yield name, alone, (draw(*clip), draw(*clip), draw(*clip))
    past = (draw(batch, 5, *clip[2:]), draw(batch, 5, *clip[2:]))
    span = Span(5 + num_observed, jnp.array([0, 1, 4, 5]), 5 + stop)

    def with_past(q, k, v, past_k, past_v, rule=rule, span=span):
      return window_attention(q, k, v, rule, span, past=(past_k, past_v)) * real

    yield f"{name} after a memory", with_past, (draw(*clip), draw(*clip), draw(*clip), *past)
  token = MaskRule(1, 2, unit="token")
  yield "token", lambda q, k, v: window_attention(q, k, v, token), (draw(*clip), draw(*clip), draw(*clip))

  actions = tuple(draw(batch, 5, heads, 4) for _ in range(3))
  read = lambda q, k, v, vk, vv: action_attention(q, k, v, vk, vv, Span(start=jnp.array([0, 2, 9, 0]), stop=stop))  # noqa: E731
  yield "actions", read, (*actions, draw(*clip), draw(*clip))

  tokens, key, value = 48, 6, 5
  gates = (-0.3 * jax.nn.sigmoid(draw(batch, tokens, heads)), jax.nn.sigmoid(draw(batch, tokens, heads)))
  q, k = (unit(draw(batch, tokens, heads, key)) for _ in "qk")
  yield "delta", gated_delta, (q, k, draw(batch, tokens, heads, value), *gates, draw(batch, heads, key, value))
  convolve = lambda x, taps, past: short_convolution(x, taps, past, tokens=45)  # noqa: E731
  yield "convolution", convolve, (draw(batch, tokens, heads, 3), draw(4, heads, 3), draw(batch, 4, heads, 3))


def outputs_and_gradients(fn, inputs, seed=3):
  rng = np.random.default_rng(seed)
  shapes = jax.tree.leaves(jax.eval_shape(fn, *inputs))
  weights = [jnp.asarray(rng.standard_normal(x.shape), jnp.float32) for x in shapes]

  def loss(*inputs):
    out = jax.tree.leaves(fn(*inputs))
    return sum(jnp.sum(x * w) for x, w in zip(out, weights, strict=True)), out

  (_, out), gradients = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(inputs))), has_aux=True))(*inputs)
  return [np.asarray(x) for x in (*out, *gradients)]


if __name__ == "__main__":
  sizes = MESHES[sys.argv[1]]
  mesh = jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))
  errors = {}
  for name, fn, inputs in cases(np.random.default_rng(0)):
    want = outputs_and_gradients(fn, inputs)
    with jax.set_mesh(mesh):
      got = outputs_and_gradients(fn, inputs)
    errors[name] = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(got, want, strict=True))
  print(json.dumps(errors))
