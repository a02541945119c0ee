"""Who is where: the phase of every process of a run, so that one that hangs is named, and where the time went."""

import os
import sys
import threading
import time
from collections import defaultdict
from types import TracebackType

import jax

from kairos_jax.parallel import process

COMPILE = "compile"  # takes as long as it takes


class Watch:
  """Knows the phase of this process; ends the run if none has passed for too long. Use as a context manager."""

  def __init__(self, limit: float):
    """`limit`: seconds that a phase but `COMPILE` may take."""
    self._limit, self._now = limit, ("start", 0, time.monotonic())
    self._seconds: dict[str, float] = defaultdict(float)
    self._ended, self._client = threading.Event(), process.coordination()

  def phase(self, name: str, step: int) -> None:
    """Says that `name` begins, at this step; a thread tells the other processes within a second."""
    before, _, since = self._now
    self._now = (name, step, time.monotonic())
    self._seconds[before] += self._now[2] - since

  def spent(self) -> str:
    """Where the time of this process went."""
    self.phase("end", self._now[1])
    total = sum(self._seconds.values())
    shares = sorted(self._seconds.items(), key=lambda item: -item[1])
    return f"{total:.0f} s: " + ", ".join(f"{name} {100 * value / max(total, 1e-9):.0f} %" for name, value in shares)

  def __enter__(self) -> "Watch":
    threading.Thread(target=self._run, name="watch", daemon=True).start()
    return self

  def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
    self._ended.set()

  def _run(self) -> None:
    every = min(1.0, self._limit / 4)
    while not self._ended.wait(every):
      name, step, since = self._now
      if self._client is not None:
        told = f"{step:012d} {process.host()}, in {name}"
        self._client.key_value_set(f"kairos/phase/{jax.process_index()}", told, allow_overwrite=True)
      if name not in (COMPILE, "end") and time.monotonic() - since > self._limit:
        print(f"kairos: {self._line(name, step)}", file=sys.stderr, flush=True)
        if process.is_first():  # the others ask its service who is behind
          time.sleep(2 * every)
        os._exit(1)  # what hangs cannot be asked to end; the same command goes on from the last checkpoint

  def _line(self, name: str, step: int) -> str:
    """Which process is behind all others."""
    mine = f"{process.host()} is in {name} at step {step} since {self._limit:g} s"
    if self._client is None:
      return f"no progress: {mine}"
    told = sorted(value for _, value in self._client.key_value_dir_get("kairos/phase/"))
    late, where = told[0].split(" ", 1)
    return f"no progress: {mine}; the one behind is {where} at step {int(late)}"
