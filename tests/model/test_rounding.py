"""Rounding for what a matrix reads: between the best of all choices and the nearest numbers."""

import itertools

import jax.numpy as jnp
import numpy as np

from kairos_jax.model.rounding import round_for_inputs

LIMITS = (-8, 7)


def _error(off, moments):
  """Mean square of what the outputs are off by, for the blocks' inputs."""
  off = off.reshape(*moments.shape[:2], -1)
  return np.einsum("njo,njk,nko->", off, moments, off)


def _draw(inputs, outputs, rng):
  mixed = rng.standard_normal((2, inputs, 3)) @ rng.standard_normal((2, 3, 64)) + 0.3 * rng.standard_normal(
    (2, inputs, 64)
  )
  return rng.standard_normal((2 * inputs, outputs)), mixed @ np.swapaxes(mixed, 1, 2) / 64


def test_it_lies_between_the_best_and_the_nearest():
  matrix, moments = _draw(4, 3, np.random.default_rng(0))
  scale = np.full((1, 3), 0.4)
  got = np.asarray(round_for_inputs(jnp.asarray(matrix, jnp.float32), jnp.asarray(scale, jnp.float32), moments, LIMITS))
  nearest = np.clip(np.round(matrix / scale), *LIMITS)
  best = 0.0
  for block, column in itertools.product(range(2), range(3)):  # of 3^4 choices around each number
    rows = slice(4 * block, 4 * block + 4)
    steps = np.array(list(itertools.product([-1, 0, 1], repeat=4)))
    off = (nearest[rows, column] + steps) * scale[0, column] - matrix[rows, column]
    best += np.einsum("sj,jk,sk->s", off, moments[block], off).min()
  found, plain = (_error(x * scale - matrix, moments) for x in (got, nearest))
  assert best - 1e-9 <= found < 0.8 * plain
  assert got.min() >= LIMITS[0] and got.max() <= LIMITS[1] and (got == np.round(got)).all()


def test_inputs_that_do_not_go_together_are_rounded_to_the_nearest():
  matrix, _ = _draw(8, 5, np.random.default_rng(1))
  scale = np.abs(matrix).reshape(2, 8, 5).max(axis=1) / 7
  moments = np.tile(np.diag(np.linspace(0.1, 3, 8)), (2, 1, 1))
  got = round_for_inputs(jnp.asarray(matrix, jnp.float32), jnp.asarray(scale, jnp.float32), moments, LIMITS)
  np.testing.assert_array_equal(got, np.round(matrix / np.repeat(scale, 8, axis=0)))
