"""How long things take: medians and tails of repeated calls, compilation aside."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from pallas_kernels.timing import Taken, interleaved


class Times(NamedTuple):
  """Time of one call, s, by the clock but for `processor`.

  Attributes:
    median: half of the calls took longer.
    p95: one call in twenty took longer.
    calls: that were timed.
    processor: of half of the calls the processors took longer, all of them together.
  """

  median: float
  p95: float
  calls: int
  processor: float


def measure(calls: Mapping[str, Callable[[], Any]], *, rounds: int, seconds: float = 0.0) -> dict[str, Times]:
  """Times calls in turns; each waits for the arrays that it returns, and runs once more untimed before each timing.

  Args:
    calls: what to time, by name.
    rounds, seconds: at least so many timings of each, and for so long in all.
  """
  runs = {name: _blocking(call) for name, call in calls.items()}
  times = interleaved(runs, rounds, seconds)
  return {name: _summary(taken) for name, taken in times.items()}


def _summary(taken: Sequence[Taken]) -> Times:
  wall, processor = zip(*taken, strict=True)
  return Times(float(np.median(wall)), float(np.quantile(wall, 0.95)), len(wall), float(np.median(processor)))


def _blocking(call: Callable[[], Any]) -> Callable[[], Any]:
  return lambda: jax.block_until_ready(call())
