"""Preferences and rewards: values in float64, and a policy of two modes that shall take the right one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kairos_jax.flow.objectives import terms
from kairos_jax.flow.objectives.nft import DiffusionNFT
from kairos_jax.flow.objectives.preference import FlowDPO
from kairos_jax.flow.objectives.reward import WeightedFlow, exponential, filtered
from kairos_jax.flow.objectives.terms import Data
from kairos_jax.flow.sampler import euler
from kairos_jax.flow.schedule import flow_schedule
from tests.flow.objectives import mixtures

OLD = {"mean": jnp.array([-1.0, 1.0]), "spread": jnp.array([0.2, 0.2])}
CENTERS = jnp.stack(jnp.meshgrid(jnp.linspace(-2.5, 2.5, 13), jnp.linspace(0, 1, 5)), axis=-1).reshape(-1, 2)


def velocity(params, z, sigma, condition):
  """The old policy's, and bumps over (z, sigma) of heights that are learned."""
  at = jnp.stack([z, jnp.broadcast_to(sigma[:, None], z.shape)], axis=-1)[..., None, :]
  bumps = jnp.exp(-0.5 * jnp.sum(jnp.square((at - CENTERS) / jnp.array([0.4, 0.25])), axis=-1))
  return mixtures.velocity(OLD, z, sigma) + bumps @ params


NEW = jnp.zeros(len(CENTERS))
SHIFT = 1.5


def dpo(params, x, key, sign):
  right = jnp.where(sign * x > 0, x, -x)  # the mixture is symmetric
  winner, loser = (Data(value, jnp.ones(len(x), bool)) for value in (right, -right))
  return FlowDPO(velocity, SHIFT, beta=20.0)(params, NEW, winner, loser, key)[0]


def nft(params, x, key, sign):
  data, well = Data(x, jnp.ones(len(x), bool)), jnp.asarray(sign * x[:, 0] > 0, jnp.float32)
  return DiffusionNFT(velocity, SHIFT)(params, NEW, data, well, key)[0]


def imitation(params, x, key, sign):
  data, weights = Data(x, jnp.ones(len(x), bool)), filtered(sign * x[:, 0], 0.0)
  return WeightedFlow(velocity, SHIFT)(params, data, weights, key)[0]


def right(flow):
  """What share of a flow's samples is positive."""
  flow_at = lambda z, timestep: flow(z, jnp.full(len(z), timestep / 1000))  # noqa: E731
  ends, _ = euler(flow_at, jax.random.normal(jax.random.key(1), (2000, 1)), flow_schedule(40, 1.0))
  return jnp.mean(ends > 0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def share_right(loss, sign):
  """What share of a policy's samples is positive, after so much of an objective."""
  optimizer = optax.adam(0.03)

  def step(carry, key):
    params, state = carry
    x_key, key = jax.random.split(key)
    gradient = jax.grad(loss)(params, mixtures.sample(x_key, OLD, (256, 1)), key, sign)
    updates, state = optimizer.update(gradient, state)
    return (params + updates, state), None

  keys = jax.random.split(jax.random.key(0), 300)
  (params, _), _ = jax.lax.scan(step, (NEW, optimizer.init(NEW)), keys)
  return right(lambda z, sigma: velocity(params, z, sigma, None))


@pytest.mark.parametrize("loss", [dpo, imitation])
def test_mass_moves_the_right_way(loss):
  assert share_right(loss, 1) > 0.9
  assert share_right(loss, -1) < 0.1


def test_mass_moves_as_far_as_the_minimum_of_nft_says():
  def minimum(z, sigma):
    well, badly = ({"mean": jnp.full(2, mean), "spread": OLD["spread"]} for mean in (1.0, -1.0))
    old, well, badly = (mixtures.velocity(mixture, z, sigma) for mixture in (OLD, well, badly))
    return old + 2 * (old - badly) / (well - badly) * (well - old)  # the fraction is E[r | z]

  expected = right(minimum)
  assert expected > 0.8
  np.testing.assert_allclose(share_right(nft, 1), expected, atol=0.05)
  np.testing.assert_allclose(share_right(nft, -1), 1 - expected, atol=0.05)


@pytest.fixture(scope="module")
def drawn():
  """Data, the noise and levels that a key gives them, and velocities of two networks, all in float64."""
  rng, key = np.random.default_rng(0), jax.random.key(3)
  one, other = (rng.standard_normal((6, 5, 2)).astype(np.float32) for _ in range(2))
  predicted = rng.random((6, 5)) < 0.7
  sigma, noise = (np.asarray(x, np.float64) for x in terms.draw(key, one, 2.0))

  def error(scale, x):
    z = (1 - sigma)[:, None, None] * x + sigma[:, None, None] * noise
    square = np.square(scale * z + sigma[:, None, None] - (noise - x)).mean(axis=-1)
    return (square * predicted).sum(axis=1) / predicted.sum(axis=1)

  return key, one, other, predicted, error


def linear(scale, z, sigma, condition):
  return scale * z + sigma[:, None, None]


def test_values_of_preferences(drawn):
  key, w, l, predicted, error = drawn
  loss, told = FlowDPO(linear, 2.0, beta=7.0, supervised=0.3)(0.4, 0.1, Data(w, predicted), Data(l, predicted), key)
  inside = (error(0.4, w) - error(0.1, w)) - (error(0.4, l) - error(0.1, l))
  preference = np.mean(np.log1p(np.exp(7.0 / 2 * inside)))
  np.testing.assert_allclose(loss, preference + 0.3 * error(0.4, w).mean(), rtol=1e-5)
  np.testing.assert_allclose(told["accuracy"], np.mean(inside < 0), rtol=1e-6)


def test_values_of_rewards(drawn):
  key, x, _, predicted, error = drawn
  reward = np.array([0.0, 1.0, 2.0, -1.0, 0.5, 1.0])
  for weights, expected in (
    (filtered(jnp.asarray(reward), 1.0), reward >= 1),
    (exponential(jnp.asarray(reward), 0.7), np.exp(reward / 0.7)),
  ):
    loss, _ = WeightedFlow(linear, 2.0)(0.4, Data(x, predicted), weights, key)
    np.testing.assert_allclose(loss, (expected * error(0.4, x)).sum() / expected.sum(), rtol=1e-5)
  np.testing.assert_allclose(exponential(jnp.asarray(reward), 0.7).mean(), 1.0, rtol=1e-6)
  assert WeightedFlow(linear, 2.0)(0.4, Data(x, predicted), jnp.zeros(6), key)[0] == 0


def test_values_of_nft(drawn):
  key, x, _, predicted, error = drawn
  well = np.array([0.0, 1.0, 0.3, 1.0, 0.5, 0.0], np.float32)
  loss, _ = DiffusionNFT(linear, 2.0, beta=0.5)(0.4, 0.1, Data(x, predicted), well, key)
  # Velocities are linear in the scale, so v_plus and v_minus have the scales 0.1 +- 0.5 (0.4 - 0.1).
  np.testing.assert_allclose(loss, np.mean(well * error(0.25, x) + (1 - well) * error(-0.05, x)), rtol=1e-5)
