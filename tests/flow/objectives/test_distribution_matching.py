"""The sign, the critic, and what the student makes, where all of it is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kairos_jax.flow.objectives.distribution_matching import HIGHEST, LOWEST, DistributionMatching
from kairos_jax.flow.objectives.terms import Data
from kairos_jax.flow.sampler import few_steps
from kairos_jax.flow.schedule import DMD_SHIFT, dmd_schedule, shifted
from tests.flow.objectives import mixtures

TEACHER = {"mean": jnp.array([-1.5, 1.0]), "spread": jnp.array([0.3, 0.6])}
STUDENT = {"mean": jnp.array([-0.7, 0.9]), "spread": jnp.array([0.7, 0.35])}
WIDTH = 64  # independent numbers of one sample, so that the mean of |x - x0_teacher| is nearly the same for all


def velocity(params, z, sigma, condition):
  """A critic is a mixture. A student of one step makes mean_k + spread_k noise, k from the condition."""
  if "student" not in params:
    return mixtures.velocity(params, z, sigma)
  made = params["student"]["mean"][condition] + params["student"]["spread"][condition] * z
  return z - made


def data(batch, seed=0):
  which = np.random.default_rng(seed).integers(0, 2, (batch, WIDTH))
  return Data(jnp.zeros((batch, WIDTH)), jnp.ones(batch, bool), jnp.asarray(which))


METHOD = DistributionMatching(velocity, velocity, dmd_schedule((1000,), DMD_SHIFT))


@jax.jit
def update(student, key):
  """The gradient with a critic that is exact."""
  frozen = jax.lax.stop_gradient(student)
  loss = lambda s: METHOD.student_loss({"student": s}, TEACHER, frozen, data(2048), key)[0]  # noqa: E731
  return jax.grad(loss)(student)


@pytest.fixture(scope="module")
def divergence():
  """Of a student from the teacher, over noise levels, each weighted as the expected update weights it."""
  levels = np.clip(shifted((np.arange(40) + 0.5) / 40, DMD_SHIFT), LOWEST, HIGHEST)
  rng, which = np.random.default_rng(0), np.tile([0, 1], 20_000)
  x = np.asarray(STUDENT["mean"])[which] + np.asarray(STUDENT["spread"])[which] * rng.standard_normal(which.size)
  weights = []
  for sigma in levels:
    z = (1 - sigma) * x + sigma * rng.standard_normal(x.size)
    real = z - sigma * mixtures.velocity(jax.tree.map(np.asarray, TEACHER), z, np.full(x.size, sigma), np)
    weights.append((sigma / (1 - sigma)) ** 2 / np.mean(np.abs(x - real)))
  return lambda student: sum(
    weight * mixtures.divergence(student, TEACHER, sigma) for weight, sigma in zip(weights, levels, strict=True)
  )


def test_the_expected_update_is_the_gradient_of_the_divergence(divergence):
  expected = {}
  for name, values in jax.tree.map(lambda x: np.asarray(x, np.float64), STUDENT).items():
    rows = []
    for step in 1e-4 * np.eye(2):
      ahead, behind = ({**STUDENT, name: values + sign * step} for sign in (1, -1))
      rows.append((divergence(ahead) - divergence(behind)) / 2e-4)
    expected[name] = np.array(rows)
  got = jax.tree.map(lambda *x: np.mean(x, axis=0), *(update(STUDENT, jax.random.key(seed)) for seed in range(4)))
  ours, numeric = (np.concatenate([tree["mean"], tree["spread"]]) for tree in (got, expected))
  assert ours @ numeric / np.linalg.norm(ours) / np.linalg.norm(numeric) > 0.99


@pytest.mark.parametrize("sign", [1, -1])
def test_down_the_gradient_the_divergence_falls_and_up_it_rises(divergence, sign):
  student, values = STUDENT, []
  for step in range(30):
    if step % 10 == 0:
      values.append(divergence(student))
    student = jax.tree.map(lambda x, g: x - sign * 0.1 * g, student, update(student, jax.random.key(step)))
  values.append(divergence(student))
  assert np.all(np.diff(values) * sign < 0), values
  if sign > 0:
    assert values[-1] < 0.5 * values[0]


def test_the_critic_learns_what_the_student_makes():
  def loss(offset, mean):
    critic = {"mean": mean + offset, "spread": STUDENT["spread"]}
    return METHOD.critic_loss(critic, {"student": STUDENT}, data(2048), jax.random.key(0))[0]

  value, slope = jax.jit(jax.value_and_grad(loss))(0.0, STUDENT["mean"])
  there, _ = jax.jit(jax.value_and_grad(loss))(0.0, TEACHER["mean"])
  assert value < there and abs(slope) < 0.02, (value, there, slope)


def test_the_student_makes_what_its_sampler_makes_and_learns_from_its_last_step():
  levels = dmd_schedule((1000, 700, 300), 1.0)

  def denoise(params, z, sigma, condition):
    return params * jnp.tanh(z) + sigma[:, None]

  method = DistributionMatching(denoise, denoise, levels)
  given = Data(jnp.zeros((64, 3)), jnp.ones(64, bool))
  x = method.make(0.7, given, jax.random.key(0))
  noise = jax.random.normal(jax.random.split(jax.random.key(0))[0], (64, 3))
  _, trace = few_steps(lambda z, t: denoise(0.7, z, jnp.full(64, t / 1000), None), noise, levels, trace=True)
  cleaned = trace.sample - levels.sigmas[:, None, None] * trace.velocity
  matches = np.isclose(cleaned, x, atol=1e-5).all(axis=-1)
  assert matches.any(axis=0).all() and (matches.sum(axis=1) > 8).all()
  # d x / d params is that of one step alone, from where the steps before had come.
  last = matches.argmax(axis=0)
  _, slope = jax.jvp(lambda p: method.make(p, given, jax.random.key(0)), (0.7,), (1.0,))
  begins, sigma = trace.sample[last, np.arange(64)], levels.sigmas[last][:, None]
  np.testing.assert_allclose(slope, -sigma * np.tanh(begins), atol=1e-5)
