"""Real-time chunking against formulas written out in float64, with the Jacobian as a dense matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kairos_jax.flow import sampler
from kairos_jax.flow.chunking import guided_by, hold_prefix, soft_mask
from kairos_jax.flow.schedule import ACTION_SHIFT, flow_schedule
from kairos_jax.interfaces import Context
from kairos_jax.model import WorldActionModel
from tests import tiny

BATCH, HORIZON, DIM = 2, 7, 3


def mask_oracle(horizon, delay, execute):
  weights = []
  for i in range(horizon):
    a = min(1.0, max(0.0, (delay - 1 - i) / (horizon - execute - delay + 1) + 1))
    weights.append(a * (np.e**a - 1) / (np.e - 1) if i < horizon - execute else 0.0)
  return np.array(weights)


@pytest.mark.parametrize(("delay", "execute"), [(0, 3), (1, 3), (2, 4), (3, 3), (3, 4), (0, 7)])
def test_the_mask_is_whole_in_the_delay_and_nothing_beyond_the_old_chunk(delay, execute):
  weights = np.asarray(soft_mask(HORIZON, jnp.asarray([delay, 1]), jnp.asarray([execute, 4])))
  np.testing.assert_allclose(weights[0], mask_oracle(HORIZON, delay, execute), atol=1e-6)
  np.testing.assert_allclose(weights[1], mask_oracle(HORIZON, 1, 4), atol=1e-6)
  assert (weights[0, :delay] == 1).all() and (weights[0, HORIZON - execute :] == 0).all()
  assert (np.diff(weights[0]) <= 0).all()


class Nonlinear:
  """A velocity that mixes all of a chunk's numbers; `oracle` is it in float64, with its Jacobian by hand."""

  def __init__(self):
    rng = np.random.default_rng(4)
    size = HORIZON * DIM
    self.a, self.b = rng.standard_normal((size, size)) / 4, rng.standard_normal((size, size)) / 4

  def __call__(self, actions, timestep):
    flat = actions.reshape(len(actions), -1)
    out = jnp.tanh(flat @ jnp.float32(self.a) + timestep / 1000) @ jnp.float32(self.b)
    return out.reshape(actions.shape)

  def oracle(self, flat, sigma):
    hidden = np.tanh(flat @ self.a + sigma)
    return hidden @ self.b, (self.a * (1 - hidden**2)) @ self.b  # J[i, j] = d v_j / d z_i


def sample_oracle(model, noise, previous, weights, most, schedule):
  z = noise.astype(np.float64)
  levels = zip(np.float64(schedule.sigmas), np.float64(schedule.next_sigmas), strict=True)
  for sigma, following in levels:
    for row in range(len(z)):
      flat = z[row].reshape(-1)
      v, jacobian = model.oracle(flat, sigma)
      wide = np.repeat(weights[row], DIM)
      error = wide * (previous[row].reshape(-1) - (flat - sigma * v))
      pull = (np.eye(len(flat)) - sigma * jacobian) @ error
      spread = sigma * (1 - sigma)
      w = most if spread <= 0 else min(most, (sigma**2 + (1 - sigma) ** 2) / spread)
      z[row] = (flat + (following - sigma) * (v - w * pull)).reshape(HORIZON, DIM)
  return z


def draw():
  rng = np.random.default_rng(5)
  return (rng.standard_normal((BATCH, HORIZON, DIM)).astype(np.float32) for _ in range(2))


@pytest.mark.parametrize("steps", [1, 5, 10])
def test_guidance_is_the_dense_jacobians(steps):
  model, (noise, previous) = Nonlinear(), draw()
  weights = np.stack([mask_oracle(HORIZON, 2, 3), mask_oracle(HORIZON, 1, 4)])
  schedule = flow_schedule(steps, ACTION_SHIFT)
  guided = guided_by(model, jnp.asarray(previous), jnp.float32(weights), steps)
  got, _ = sampler.euler(guided, jnp.asarray(noise), schedule)
  np.testing.assert_allclose(got, sample_oracle(model, noise, previous, weights, steps, schedule), atol=1e-5)


def test_guidance_draws_the_first_actions_to_the_old_chunk():
  model, (noise, previous) = Nonlinear(), draw()
  weights = jnp.broadcast_to(soft_mask(HORIZON, jnp.asarray(2), jnp.asarray(3)), (BATCH, HORIZON))
  schedule = flow_schedule(10, ACTION_SHIFT)
  free, _ = sampler.euler(model, jnp.asarray(noise), schedule)
  near, _ = sampler.euler(guided_by(model, jnp.asarray(previous), weights, 10), jnp.asarray(noise), schedule)
  distance = lambda x: np.abs(x[:, :2] - previous[:, :2]).mean()  # noqa: E731
  assert distance(near) < 0.2 * distance(free)


def test_weights_of_zero_change_nothing():
  model, (noise, previous) = Nonlinear(), draw()
  schedule = flow_schedule(5, ACTION_SHIFT)
  free, _ = sampler.euler(model, jnp.asarray(noise), schedule)
  guided = guided_by(model, jnp.asarray(previous), jnp.zeros((BATCH, HORIZON)), 5)
  np.testing.assert_array_equal(free, sampler.euler(guided, jnp.asarray(noise), schedule)[0])


@pytest.fixture(scope="module")
def tower():
  saved = tiny.saved()
  model, rng = WorldActionModel(saved.model_config), np.random.default_rng(1)
  context = Context(jnp.float32(rng.standard_normal((BATCH, 5, 16))))
  latents = jnp.float32(rng.standard_normal((BATCH, 2, 2, 2, tiny.CHANNELS)))
  memory = model.apply({"params": saved.params}, None, latents, context, method="extend")

  @jax.jit
  def velocity(actions, timestep):
    return model.apply({"params": saved.params}, memory, actions, timestep, context, method="denoise_actions")

  return velocity


def test_one_timestep_for_each_action_is_the_towers_own_when_they_agree(tower):
  noise, _ = draw()
  at = jnp.asarray([731.0, 12.5])
  np.testing.assert_allclose(tower(noise, at), tower(noise, jnp.broadcast_to(at[:, None], (BATCH, HORIZON))), atol=2e-6)


def test_a_timestep_of_one_action_reaches_that_action(tower):
  noise, _ = draw()
  times = np.full((BATCH, HORIZON), 500.0, np.float32)
  other = times.copy()
  other[:, 4] = 0.0
  change = np.abs(np.asarray(tower(noise, times) - tower(noise, other))).max(axis=(0, 2))
  assert change.argmax() == 4 and change[4] > 1e-3


def test_a_prefix_is_kept_bit_for_bit_and_the_rest_knows_it(tower):
  noise, previous = draw()
  delay = jnp.asarray([3, 0])

  def sample(previous):
    constrain, timesteps = hold_prefix(jnp.asarray(previous), delay)
    velocity = lambda actions, timestep: tower(actions, timesteps(timestep))  # noqa: E731
    return np.asarray(sampler.euler(velocity, noise, flow_schedule(4, ACTION_SHIFT), constrain)[0])

  got = sample(previous)
  np.testing.assert_array_equal(got[0, :3], previous[0, :3])
  free, _ = sampler.euler(lambda x, t: tower(x, jnp.full(BATCH, t)), noise, flow_schedule(4, ACTION_SHIFT))
  np.testing.assert_allclose(got[1], free[1], atol=1e-5)
  assert np.abs(sample(previous + 1)[0, 3:] - got[0, 3:]).max() > 1e-4
