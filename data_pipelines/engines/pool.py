"""Work on many items in several processes, of which any may die."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from data_pipelines import worker
from data_pipelines.engines.base import Asked, Entry, Work, WorkerDied
from data_pipelines.engines.ledger import Ledger

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Pool:
  """An engine: processes of this machine, each of which does both steps. With 1, this process does them."""

  processes: int = 1

  def __call__(self, work: Work, items: Sequence[Any]) -> Iterator[tuple[Any, list[Entry] | WorkerDied]]:
    """See `base.Engine`."""
    return run(functools.partial(_BothSteps, work), items, self.processes)


HERE = Pool()  # in this process


class _BothSteps:
  """Both steps of a work, in one process."""

  def __init__(self, work: Work):
    self._work, self._read, self._answer = work, work.reader(), work.answerer()

  def __call__(self, item: Any) -> list[Entry]:
    entries = []
    path = self._work.ledger(item)
    with Ledger(path) if path else contextlib.nullcontext() as book:
      for found in self._read(item):
        entries.append(self._answer(found) if isinstance(found, Asked) else found)
        if book:
          book.append(entries[-1])
    return entries


def run(
  make: Callable[[], Callable[[Item], Result]], items: Sequence[Item], processes: int = 1
) -> Iterator[tuple[Item, Result | WorkerDied]]:
  """The result of every item, as they become ready.

  When a process dies, all that was under way is done again one by one, so that the item that kills is known; it gets a
  `WorkerDied` in place of a result. What the work itself raises ends the run.

  Args:
    make: called once in every process, gives the function that does the work; picklable. The function should write down
      what it does, so that a second run goes on.
    items: picklable.
    processes: at once; with 1 the work is done in this process.
  """
  if processes == 1 or not items:
    work = make()
    for item in items:
      yield item, work(item)
    return
  left = list(items)
  while left:
    try:
      for item, result in _together(make, left, processes):
        left.remove(item)
        yield item, result
    except BrokenProcessPool:
      # At most this many were under way, the oldest first: one of them kills.
      suspects, left = left[: _AHEAD * processes], left[_AHEAD * processes :]
      for item in suspects:
        try:
          yield from _together(make, [item], 1)
        except BrokenProcessPool:
          yield item, WorkerDied(f"a process died on {item}")


_AHEAD = 2  # items that are handed out at once, for each process


def _together(
  make: Callable[[], Callable[[Item], Result]], items: Sequence[Item], processes: int
) -> Iterator[tuple[Item, Result]]:
  """Hands out an item as soon as one is done, so that a death concerns few."""
  spawn = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(min(processes, len(items)), spawn, _begin, (make,)) as executor:
    running: dict[concurrent.futures.Future[Result], Item] = {}
    for item in items:
      running[executor.submit(_call, item)] = item
      if len(running) >= _AHEAD * processes:
        yield from _first_done(running)
    while running:
      yield from _first_done(running)


def _first_done(running: dict[concurrent.futures.Future[Result], Item]) -> Iterator[tuple[Item, Result]]:
  done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
  for future in done:
    yield running.pop(future), future.result()


_work: Callable[[Any], Any]  # of a process of the pool


def _begin(make: Callable[[], Callable[[Any], Any]]) -> None:
  global _work
  worker.begin()
  _work = make()


def _call(item: Any) -> Any:
  return _work(item)
