"""How long things take: medians and tails of repeated calls, compilation aside."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from pallas_kernels.timing import interleaved


class Times(NamedTuple):
  """Wall time of one call, s.

  Attributes:
    median: half of the calls took longer.
    p95: one call in twenty took longer.
    calls: that were timed.
  """

  median: float
  p95: float
  calls: int


def measure(calls: Mapping[str, Callable[[], Any]], *, rounds: int, seconds: float = 0.0) -> dict[str, Times]:
  """Times calls in turns; each waits for the arrays that it returns, and runs once more untimed before each timing.

  Args:
    calls: what to time, by name.
    rounds, seconds: at least so many timings of each, and for so long in all.
  """
  runs = {name: _blocking(call) for name, call in calls.items()}
  times = interleaved(runs, rounds, seconds)
  return {name: Times(float(np.median(t)), float(np.quantile(t, 0.95)), len(t)) for name, t in times.items()}


def _blocking(call: Callable[[], Any]) -> Callable[[], Any]:
  return lambda: jax.block_until_ready(call())
