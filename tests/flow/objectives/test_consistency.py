"""The loss vanishes at the student that is right, as fast as the teacher's steps shrink."""

import jax
import jax.numpy as jnp
import pytest

from kairos_jax.flow.objectives.consistency import Consistency
from kairos_jax.flow.objectives.terms import Data
from kairos_jax.flow.schedule import flow_schedule
from tests.flow.objectives import mixtures

MEAN, SPREAD = 0.7, 0.4
GAUSSIAN = {"mean": jnp.full(2, MEAN), "spread": jnp.full(2, SPREAD)}


def teacher(params, z, sigma, condition):
  return mixtures.velocity(GAUSSIAN, z, sigma)


def exact(params, z, sigma, condition):
  """The end of the teacher's path, as a velocity: a Gaussian's paths are known."""
  s = sigma[:, None]
  end = MEAN + SPREAD * (z - (1 - s) * MEAN) / jnp.sqrt((1 - s) ** 2 * SPREAD**2 + s**2)
  return (z - end) / jnp.maximum(s, 1e-9) * (1 + params)


def loss_of(student, levels, params=0.0):
  given = Data(MEAN + SPREAD * jax.random.normal(jax.random.key(1), (4096, 1)), jnp.ones(4096, bool))
  method = Consistency(student, teacher, flow_schedule(levels, 3.0))
  return jax.value_and_grad(lambda p: method(p, None, given, jax.random.key(0))[0])(params)


def test_the_ends_of_the_teachers_paths_are_consistent():
  coarse, fine = (loss_of(exact, levels)[0] for levels in (32, 128))
  assert fine < coarse / 50  # an Euler step is off by the square of its size, and the loss is a square again
  assert fine < 5e-3 * loss_of(teacher, 128)[0]  # a mean over what is possible is no end of a path


@pytest.mark.parametrize("off", [-0.2, 0.2])
def test_what_is_off_is_drawn_back(off):
  assert jnp.sign(loss_of(exact, 64, off)[1]) == jnp.sign(off)
