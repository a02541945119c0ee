"""The one timer: calls take turns, so that all of them see the machine in the same moods."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Taken(NamedTuple):
  """What one call took, s: by the clock, and of all processors together, which says less of what else they do."""

  wall: float
  processor: float


def interleaved(runs: Mapping[str, Callable[[], Any]], rounds: int, seconds: float) -> dict[str, list[Taken]]:
  """What each call took, which must block until its result is there.

  Each runs twice in a turn and the second time counts: the first finds another's data in the caches, a core that the
  other's idle threads still spin on, or code that is not compiled yet.

  Args:
    runs: what to time, by name.
    rounds, seconds: at least so many turns, and for so long.
  """
  times: dict[str, list[Taken]] = {name: [] for name in runs}
  begin, done = time.perf_counter(), 0
  while runs and (done < rounds or time.perf_counter() - begin < seconds):
    done += 1
    for name, run in runs.items():
      run()
      wall, processor = time.perf_counter(), time.process_time()
      run()
      times[name].append(Taken(time.perf_counter() - wall, time.process_time() - processor))
  return times
