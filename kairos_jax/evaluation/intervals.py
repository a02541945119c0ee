"""How sure a measured number is: 95% confidence intervals of rates and of means."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from kairos_jax.errors import KairosError

LEVEL = 0.95
_RESAMPLES = 2000


class Interval(NamedTuple):
  """A measured number and the interval around it."""

  value: float
  low: float
  high: float


def wilson(successes: int, trials: int) -> Interval:
  """A success rate with its Wilson score interval (1927); unlike rate +- error it stays within [0, 1].

  Raises:
    KairosError: no trials, or more successes than trials.
  """
  if not 0 <= successes <= trials or trials < 1:
    raise KairosError(f"{successes} successes of {trials} trials have no rate; successes must be 0 to trials")
  low, high = stats.binomtest(int(successes), int(trials)).proportion_ci(LEVEL, method="wilson")
  return Interval(successes / trials, float(low), float(high))


def difference(first: Interval, second: Interval) -> Interval:
  """How far apart two rates of independent trials are, from Wilson intervals. Source: Newcombe 1998, method 10."""
  apart = first.value - second.value
  low = apart - np.hypot(first.value - first.low, second.high - second.value)
  high = apart + np.hypot(first.high - first.value, second.value - second.low)
  return Interval(apart, float(low), float(high))


def mean_band(
  values: Float[np.ndarray, "N *S"], seed: int = 0
) -> tuple[Float[np.ndarray, "*S"], Float[np.ndarray, "*S"], Float[np.ndarray, "*S"]]:
  """Mean over the first axis and its interval, by a percentile bootstrap that draws whole rows: (mean, low, high).

  Args:
    values: one row for each independent sample, such as a clip; numbers within a row may depend on each other. A NaN
      says nothing: the mean is over those rows that have a number there, NaN where none has.
    seed: of the resampling.
  """
  values = np.asarray(values, np.float64)
  count, known = len(values), np.isfinite(values)
  draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), _RESAMPLES)
  weights = np.concatenate([np.ones((1, count)), draws])  # of every row: once each, then as drawn
  with np.errstate(invalid="ignore"):
    means = np.tensordot(weights, np.where(known, values, 0), axes=1) / np.tensordot(weights, known, axes=1)
  with warnings.catch_warnings():  # where no row has a number
    warnings.simplefilter("ignore", RuntimeWarning)
    low, high = np.nanquantile(means[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
  return np.asarray(means[0]), np.asarray(low), np.asarray(high)  # numpy makes numbers of arrays without axes


def mean_interval(values: Float[np.ndarray, "N"], seed: int = 0) -> Interval:
  """`mean_band` of plain numbers."""
  return Interval(*(float(x) for x in mean_band(values, seed)))
