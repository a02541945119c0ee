"""What every implementation of the gated delta rule must do; each inherits this class and names itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.gated_delta import gated_delta, reference
from tests.model import oracle
from tests.pallas_kernels.cost import cost

BATCH, HEADS = 2, 2
NAMES = ("q", "k", "v", "log_decay", "beta", "state")
# Relative to a tensor's largest number: what float32 may lose of any output or gradient, whatever the gates. Where keys
# are alike and decays are strong, gradients to the decays are small differences: token by token they lose 3e-6.
BOUND, BOUND_ALIKE = 5e-6, 2e-5
# One token, around a chunk, several chunks, several segments of chunks.
LENGTHS = (1, 63, 64, 65, 200, 1000)


def draw(length, key=6, value=5, gates="usual", seed=0):
  """q, k, v, log_decay, beta and a state, in float64."""
  rng = np.random.default_rng(seed)
  q, k = (oracle.l2_normalize(rng.standard_normal((BATCH, length, HEADS, key))) for _ in "qk")
  v, state = rng.standard_normal((BATCH, length, HEADS, value)), rng.standard_normal((BATCH, HEADS, key, value))
  shape = (BATCH, length, HEADS)
  if gates == "usual":
    log_decay, beta = -rng.uniform(0, 0.3, shape), rng.uniform(0, 1, shape)
  elif gates == "extreme":  # forget all, keep all, and both next to each other; write nothing, replace all
    log_decay, beta = rng.choice([-50.0, -5.0, -1e-7], shape), rng.choice([1e-7, 0.5, 1 - 1e-7], shape)
  elif gates == "strong":  # their sums are in the thousands, and a few tokens forget all there is
    log_decay, beta = -rng.uniform(1, 40, shape), rng.uniform(0.9, 1, shape)
    log_decay = np.where(rng.uniform(size=shape) < 0.05, -1e4, log_decay)
  elif gates == "of every size":  # decays from 1e-6 to 50 side by side, beta from nearly 0 to nearly 1
    log_decay = -np.exp(rng.uniform(np.log(1e-6), np.log(50), shape))
    beta = 1 / (1 + np.exp(-6 * rng.standard_normal(shape)))
  elif gates == "weak":  # hardly anything is forgotten, and all is corrected
    log_decay, beta = -1e-3 * rng.uniform(0, 1, shape), 1 - 1e-3 * rng.uniform(0, 1, shape)
  else:
    raise ValueError(gates)
  return q * key**-0.5, k, v, log_decay, beta, state


def single(inputs):
  return tuple(jnp.asarray(x, jnp.float32) for x in inputs)


def half(inputs):
  """q, k, v in bfloat16; gates and state stay in float32."""
  return tuple(jnp.asarray(x, jnp.bfloat16 if i < 3 else jnp.float32) for i, x in enumerate(inputs))


def token_by_token(inputs):
  """The oracle in float64, clip by clip."""
  reads, states = zip(*(oracle.gated_delta_rule(*(x[clip] for x in inputs)) for clip in range(BATCH)), strict=True)
  return np.stack(reads), np.stack(states)


@functools.cache
def weighted_gradients(fn):
  """Of a weighting of reads and state, to all six inputs: one jitted function for each implementation."""

  def loss(inputs, weights):
    return sum(jnp.sum(out * weight) for out, weight in zip(fn(*inputs), weights, strict=True))

  return jax.jit(jax.grad(loss))


def gradients(fn, inputs, seed=9):
  """Of a random weighting."""
  rng = np.random.default_rng(seed)
  weights = tuple(rng.standard_normal(inputs[i].shape).astype(inputs[3].dtype) for i in (2, 5))
  return weighted_gradients(fn)(tuple(inputs), weights)


def reference_gradients(inputs):
  with jax.enable_x64(True):
    want = [np.asarray(x) for x in gradients(reference.gated_delta, [jnp.asarray(x, jnp.float64) for x in inputs])]
  assert want[0].dtype == np.float64
  return want


def assert_relative(got, want, tolerance, name=""):
  error = np.abs(np.asarray(got, np.float64) - want).max() / (np.abs(want).max() + 1e-30)
  assert error < tolerance, f"{name}: {error:.1e}"  # a NaN fails


class GatedDeltaTest:
  """Of `fn`, at heads of `key` and `value`."""

  fn = staticmethod(gated_delta)
  key, value = 6, 5

  @classmethod
  def setup_class(cls):
    cls.run = staticmethod(jax.jit(cls.fn))  # one for all tests, so that each length compiles once

  def draw(self, length, **options):
    return draw(length, self.key, self.value, **options)

  @pytest.mark.parametrize("gates", ["usual", "extreme"])
  @pytest.mark.parametrize("length", LENGTHS)
  def test_reads_and_state(self, length, gates):
    inputs = self.draw(length, gates=gates)
    for name, got, want in zip(("reads", "state"), self.run(*single(inputs)), token_by_token(inputs), strict=True):
      assert_relative(got, want, 1e-5, name)

  @pytest.mark.parametrize("alike", [None, 1e-2], ids=["keys apart", "keys alike"])
  @pytest.mark.parametrize("gates", ["usual", "strong", "of every size", "weak"])
  def test_rounding_is_bounded(self, gates, alike):
    """Whole-numbered log-decays would hide it: their sums are exact in float32."""
    bound = BOUND if alike is None else BOUND_ALIKE
    for seed in range(3):
      q, k, *rest = self.draw(200, gates=gates, seed=seed)
      inputs = q, k if alike is None else oracle.l2_normalize(k[:, :1] + alike * k), *rest
      for name, got, want in zip(("reads", "state"), self.run(*single(inputs)), token_by_token(inputs), strict=True):
        assert_relative(got, want, bound, name)
      for name, got, want in zip(NAMES, gradients(self.fn, single(inputs)), reference_gradients(inputs), strict=True):
        assert_relative(got, want, bound, f"gradient to {name}")

  def test_no_state_is_a_state_of_zeros(self):
    *inputs, state = self.draw(65)
    got, want = self.run(*single(inputs)), token_by_token((*inputs, np.zeros_like(state)))
    assert_relative(got[0], want[0], 1e-5, "reads")
    assert_relative(got[1], want[1], 1e-5, "state")

  @pytest.mark.parametrize(("length", "gates"), [(1, "usual"), (65, "extreme"), (200, "usual")])
  def test_gradients(self, length, gates):
    inputs = self.draw(length, gates=gates)
    want = reference_gradients(inputs)
    for name, ours, theirs in zip(NAMES, gradients(self.fn, single(inputs)), want, strict=True):
      assert_relative(ours, theirs, 1e-4, name)

  def test_carried_state_is_the_whole(self):
    *inputs, state = single(self.draw(65))
    whole, final = self.run(*inputs, state)
    parts = []
    for start, stop in ((0, 64), (64, 65)):
      part, state = self.run(*(x[:, start:stop] for x in inputs), state)
      parts.append(part)
    assert_relative(np.concatenate(parts, 1), np.asarray(whole), 1e-5, "reads")
    assert_relative(state, np.asarray(final), 1e-5, "state")

  def test_padding_leaves_no_trace(self):
    """Tokens with beta 0 that forget nothing: whatever they hold, neither reads nor state change."""
    q, k, v, log_decay, beta, state = (np.array(x) for x in self.draw(65))
    want = token_by_token((*(x[:, :60] for x in (q, k, v, log_decay, beta)), state))
    log_decay[:, 60:], beta[:, 60:], k[:, 60:], v[:, 60:], q[:, 60:] = 0, 0, 7.0, 1e6, 7.0
    reads, final = self.run(*single((q, k, v, log_decay, beta, state)))
    assert_relative(reads[:, :60], want[0], 1e-5, "reads")
    assert_relative(final, want[1], 1e-5, "state")

  def test_no_token_reads_a_later_one(self):
    inputs = single(self.draw(65))
    want, _ = self.run(*inputs)
    changed = [x.at[:, 40:].set(0.9 * x[:, 40:] - 0.1) for x in inputs[:5]]
    got, _ = self.run(*changed, inputs[5])
    np.testing.assert_array_equal(got[:, :40], want[:, :40])
    assert np.abs(got[:, 40:] - want[:, 40:]).max() > 1e-3

  def test_tokens_that_are_alike(self):
    """Neighbors in a video nearly repeat each other's keys, which makes the chunk's system worst."""
    q, k, v, log_decay, beta, state = self.draw(200)
    k = oracle.l2_normalize(k[:, :1] + 1e-3 * k)
    inputs = (q, k, v, 0.01 * log_decay, 1 - 0.01 * beta, state)
    for name, got, want in zip(("reads", "state"), self.run(*single(inputs)), token_by_token(inputs), strict=True):
      assert_relative(got, want, 1e-5, name)

  def test_low_precision_inputs_keep_a_float32_state(self):
    inputs = half(self.draw(200))
    reads, state = self.run(*inputs)
    assert (reads.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)
    want = token_by_token([np.asarray(x, np.float64) for x in inputs])
    assert_relative(reads, want[0], 2e-2, "reads")
    assert_relative(state, want[1], 2e-2, "state")

  def test_low_precision_gradients(self):
    inputs = half(self.draw(200))
    got, want = gradients(self.fn, inputs), reference_gradients([np.asarray(x, np.float64) for x in inputs])
    for name, ours, theirs, given in zip(NAMES, got, want, inputs, strict=True):
      assert ours.dtype == given.dtype
      assert_relative(ours, theirs, 2e-2, name)


def assert_linear(fn):
  """Twice the tokens cost twice the products, and no array grows faster."""
  once, twice = (cost(fn, *single(draw(length))) for length in (512, 1024))
  assert once.products > 0
  assert twice.products <= 2.1 * once.products and twice.largest <= 2.1 * once.largest
