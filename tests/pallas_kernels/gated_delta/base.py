"""What every implementation of the gated delta rule must do; each inherits this class and names itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.gated_delta import gated_delta, reference
from tests.model import oracle
from tests.pallas_kernels.cost import cost

BATCH, HEADS, KEY, VALUE = 2, 2, 6, 5
NAMES = ("q", "k", "v", "log_decay", "beta", "state")
LENGTHS = (1, 63, 64, 65, 200)


def draw(length, seed=0, gates="usual"):
  """q, k, v, log_decay, beta and a state, in float64."""
  rng = np.random.default_rng(seed)
  q, k = (oracle.l2_normalise(rng.standard_normal((BATCH, length, HEADS, KEY))) for _ in "qk")
  v, state = rng.standard_normal((BATCH, length, HEADS, VALUE)), rng.standard_normal((BATCH, HEADS, KEY, VALUE))
  shape = (BATCH, length, HEADS)
  if gates == "usual":
    log_decay, beta = -rng.uniform(0, 0.3, shape), rng.uniform(0, 1, shape)
  else:  # forget all, keep all, and both next to each other; write nothing, replace all
    log_decay, beta = rng.choice([-50.0, -5.0, -1e-7], shape), rng.choice([1e-7, 0.5, 1 - 1e-7], shape)
  return q * KEY**-0.5, k, v, log_decay, beta, state


def single(inputs):
  return tuple(jnp.asarray(x, jnp.float32) for x in inputs)


def token_by_token(inputs):
  """The oracle in float64, clip by clip."""
  reads, states = zip(*(oracle.gated_delta_rule(*(x[clip] for x in inputs)) for clip in range(BATCH)), strict=True)
  return np.stack(reads), np.stack(states)


def gradients(fn, inputs, seed=9):
  """Of a random weighting of reads and state, to all six inputs."""
  rng = np.random.default_rng(seed)
  weights = rng.standard_normal(inputs[2].shape), rng.standard_normal(inputs[5].shape)

  def loss(*inputs):
    return sum(jnp.sum(out * weight) for out, weight in zip(fn(*inputs), weights, strict=True))

  return jax.jit(jax.grad(loss, argnums=range(6)))(*inputs)


def assert_relative(got, want, tolerance, name=""):
  error = np.abs(np.asarray(got, np.float64) - want).max() / (np.abs(want).max() + 1e-30)
  assert error < tolerance, f"{name}: {error:.1e}"  # a NaN fails


@functools.cache
def compiled(implementation):
  """One jitted function for all tests, so that each length compiles once."""
  return jax.jit(functools.partial(gated_delta, implementation=implementation))


class GatedDeltaTest:
  """`implementation` is a name that `api.gated_delta` knows."""

  implementation: str

  @property
  def run(self):
    return compiled(self.implementation)

  @pytest.mark.parametrize("gates", ["usual", "extreme"])
  @pytest.mark.parametrize("length", LENGTHS)
  def test_reads_and_state(self, length, gates):
    inputs = draw(length, gates=gates)
    for name, got, want in zip(("reads", "state"), self.run(*single(inputs)), token_by_token(inputs), strict=True):
      assert_relative(got, want, 1e-5, name)

  def test_no_state_is_a_state_of_zeros(self):
    *inputs, state = draw(65)
    got, want = self.run(*single(inputs)), token_by_token((*inputs, np.zeros_like(state)))
    assert_relative(got[0], want[0], 1e-5, "reads")
    assert_relative(got[1], want[1], 1e-5, "state")

  @pytest.mark.parametrize(("length", "gates"), [(1, "usual"), (65, "extreme")])
  def test_gradients(self, length, gates):
    inputs = draw(length, gates=gates)
    with jax.enable_x64(True):
      want = [np.asarray(x) for x in gradients(reference.gated_delta, [jnp.asarray(x) for x in inputs])]
      assert want[0].dtype == np.float64
    got = gradients(functools.partial(gated_delta, implementation=self.implementation), single(inputs))
    for name, ours, theirs in zip(NAMES, got, want, strict=True):
      assert_relative(ours, theirs, 1e-4, name)

  def test_carried_state_is_the_whole(self):
    *inputs, state = single(draw(65))
    whole, final = self.run(*inputs, state)
    parts = []
    for start, stop in ((0, 64), (64, 65)):
      part, state = self.run(*(x[:, start:stop] for x in inputs), state)
      parts.append(part)
    assert_relative(np.concatenate(parts, 1), np.asarray(whole), 1e-5, "reads")
    assert_relative(state, np.asarray(final), 1e-5, "state")

  def test_padding_leaves_no_trace(self):
    """Tokens with beta 0 that forget nothing: whatever they hold, neither reads nor state change."""
    q, k, v, log_decay, beta, state = (np.array(x) for x in draw(65))
    want = token_by_token((*(x[:, :60] for x in (q, k, v, log_decay, beta)), state))
    log_decay[:, 60:], beta[:, 60:], k[:, 60:], v[:, 60:], q[:, 60:] = 0, 0, 7.0, 1e6, 7.0
    reads, final = self.run(*single((q, k, v, log_decay, beta, state)))
    assert_relative(reads[:, :60], want[0], 1e-5, "reads")
    assert_relative(final, want[1], 1e-5, "state")

  def test_no_token_reads_a_later_one(self):
    inputs = single(draw(65))
    want, _ = self.run(*inputs)
    changed = [x.at[:, 40:].set(0.9 * x[:, 40:] - 0.1) for x in inputs[:5]]
    got, _ = self.run(*changed, inputs[5])
    np.testing.assert_array_equal(got[:, :40], want[:, :40])
    assert np.abs(got[:, 40:] - want[:, 40:]).max() > 1e-3

  def test_low_precision_inputs_keep_a_float32_state(self):
    inputs = single(draw(65))
    reads, state = self.run(*(x.astype(jnp.bfloat16) for x in inputs[:3]), *inputs[3:])
    assert (reads.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)
    want = token_by_token([np.asarray(x, np.float64) for x in inputs])
    assert_relative(reads, want[0], 3e-2, "reads")
    assert_relative(state, want[1], 3e-2, "state")

  def test_cost_is_linear(self):
    fn = functools.partial(gated_delta, implementation=self.implementation)
    once, twice = (cost(fn, *single(draw(length))) for length in (256, 512))
    assert once.products > 0
    assert twice.products <= 2.1 * once.products and twice.largest <= 2.1 * once.largest
