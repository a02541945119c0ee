"""Intervals: against published numbers, against scipy, and that they cover the truth as often as they say."""

import numpy as np
import pytest
from scipy import stats

from kairos_jax.errors import KairosError
from kairos_jax.evaluation import intervals


def test_wilson_against_published_numbers():
  np.testing.assert_allclose(intervals.wilson(84, 100)[1:], (0.7558, 0.8990), atol=1e-4)
  assert intervals.wilson(0, 20).low == 0 and intervals.wilson(20, 20).high == pytest.approx(1)
  assert intervals.wilson(0, 20).high == pytest.approx(0.1611, abs=1e-4)
  assert intervals.wilson(3, 7).value == 3 / 7


def test_a_difference_against_published_numbers():
  """Newcombe 1998, table II, method 10: 56/70 - 48/80 and 10/10 - 0/10."""
  apart = intervals.difference(intervals.wilson(56, 70), intervals.wilson(48, 80))
  np.testing.assert_allclose(apart, (0.2, 0.0524, 0.3339), atol=1e-4)
  sure = intervals.difference(intervals.wilson(10, 10), intervals.wilson(0, 10))
  np.testing.assert_allclose(sure, (1, 0.6075, 1), atol=1e-4)


@pytest.mark.parametrize("successes, trials", [(1, 0), (-1, 5), (6, 5), (0, 0)])
def test_impossible_counts(successes, trials):
  with pytest.raises(KairosError, match="have no rate"):
    intervals.wilson(successes, trials)


def test_the_band_of_a_mean_is_that_of_normal_theory_for_many_rows():
  values = np.random.default_rng(1).gamma(2.0, 1.7, (160, 3)) * [1, 5, 0.2]
  mean, low, high = intervals.mean_band(values)
  half = stats.t.ppf(0.975, 159) * values.std(axis=0, ddof=1) / np.sqrt(160)
  np.testing.assert_allclose(mean, values.mean(axis=0))
  np.testing.assert_allclose(high - low, 2 * half, rtol=0.08)


def test_the_band_of_one_row_is_the_row_and_its_seed_decides():
  row = np.array([[3.0, -1.5]])
  assert all(np.array_equal(x, row[0]) for x in intervals.mean_band(row))
  values = np.random.default_rng(2).normal(size=11)
  assert intervals.mean_interval(values) == intervals.mean_interval(values) != intervals.mean_interval(values, seed=1)


def test_a_number_that_is_not_there_counts_for_nothing():
  values = np.random.default_rng(3).gamma(2.0, 1.7, (40, 3))
  values[5:, 1] = np.nan  # a frame in which few clips show the thing
  values[:, 2] = np.nan
  mean, low, high = intervals.mean_band(values)
  np.testing.assert_allclose(mean[:2], [values[:, 0].mean(), values[:5, 1].mean()])
  assert low[1] < mean[1] < high[1] and high[1] - low[1] > high[0] - low[0]
  assert np.isnan([mean[2], low[2], high[2]]).all()


def test_a_band_covers_the_truth_as_often_as_it_says():
  rng = np.random.default_rng(4)
  covered = []
  for trial in range(80):
    clips = rng.gamma(2.0, 1.3, (48, 1)) + rng.normal(size=(48, 4))  # frames of a clip are alike
    _, low, high = intervals.mean_band(clips, seed=trial)
    covered.append((low <= 2.6) & (2.6 <= high))
  assert 0.88 < np.mean(covered) < 0.99
