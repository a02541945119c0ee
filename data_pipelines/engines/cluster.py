"""A work on a Ray cluster, by Ray Data: a pool of actors for each of its two steps, and clips stream between them.

Needs the extra `ray`. What a work reads and writes must be where every machine of the cluster sees it under one name.
Ledgers are written here alone, so that they are those of the pool, byte for byte, whichever actors die.
"""

import collections
import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from data_pipelines import records
from data_pipelines.engines.base import Asked, Entry, Item, Work, WorkerDied, no_questions
from data_pipelines.engines.ledger import Ledger
from kairos_jax.errors import KairosError

_DEATHS = 3  # of actors at the same row, before it is given up
_BLOCKS = 10_000  # at most, that the items are handed out in


@dataclasses.dataclass(frozen=True)
class Cluster:
  """An engine on Ray.

  Attributes:
    address: of the cluster, as `ray.init` takes it; "local" starts one on this machine.
    readers: actors of the first step at most, a processor each.
    models: actors of the second step, where the work has one.
    takes: of Ray's resources, what each of these takes, such as ("GPU", 1); nothing is a processor.
  """

  address: str = "local"
  readers: int = 2
  models: int = 1
  takes: tuple[str, float] | None = None

  def __call__(self, work: Work, items: Sequence[Item]) -> Iterator[tuple[Item, list[Entry] | WorkerDied]]:
    """See `base.Engine`."""
    if not items:
      return
    _connect(self.address)
    noted = [_Noted(work, item) for item in items]
    left = set(range(len(items)))
    try:
      for row in self._rows(work, items):
        place = row["place"]
        if place in left and noted[place].add(row):
          left.remove(place)
          yield items[place], noted[place].entries
      for place in sorted(left):
        yield items[place], WorkerDied(f"{_DEATHS} processes died on {items[place]}")
    finally:
      for notes in noted:
        notes.close()

  def _rows(self, work: Work, items: Sequence[Item]) -> Iterator[dict[str, Any]]:
    """What both steps make of these items, as it comes."""
    import ray

    deaths = ray.remote(num_cpus=0)(_Deaths).remote()
    blocks = min(len(items), _BLOCKS)
    data = ray.data.from_items([{"place": place} for place in range(len(items))], override_num_blocks=blocks)
    readers = min(self.readers, blocks)
    data = data.flat_map(_Read, fn_constructor_args=(work, items, deaths), num_cpus=1, concurrency=(1, readers))
    if work.answerer() is not no_questions:
      match self.takes:
        case None:
          need: dict[str, Any] = {"num_cpus": 1}
        case ("GPU", amount):
          need = {"num_gpus": amount}
        case (name, amount):
          need = {"resources": {name: amount}}
      data = data.map(_Answer, fn_constructor_args=(work, deaths), concurrency=self.models, **need)
    try:
      yield from data.iter_rows()
    except ray.exceptions.RayError as error:
      raise KairosError(f"Ray at {self.address}: {_line(error)}") from error


class _Deaths:
  """An actor that knows what others have begun and not ended. Ray tries again for ever what an actor dies on."""

  def __init__(self) -> None:
    self._begun: collections.Counter[tuple[int, int]] = collections.Counter()

  def begin(self, what: tuple[int, int]) -> bool:
    """Whether it may be tried."""
    self._begun[what] += 1
    return self._begun[what] <= _DEATHS

  def end(self, what: tuple[int, int]) -> None:
    """It came to its end."""
    del self._begun[what]


@contextlib.contextmanager
def _counted(deaths: Any, what: tuple[int, int]) -> Iterator[None]:
  """Holds a block that may kill its process.

  Raises:
    WorkerDied: it has done so too often.
  """
  import ray

  if not ray.get(deaths.begin.remote(what)):
    raise WorkerDied
  yield
  deaths.end.remote(what)


class _Read:
  """The first step of a work in an actor: a row for each entry and each question of an item, and one that ends it."""

  def __init__(self, work: Work, items: Sequence[Item], deaths: Any):
    self._read, self._items, self._deaths = work.reader(), items, deaths

  def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    place, number = row["place"], 0
    empty = {"place": place, "entry": "", "about": "", "clip": b"", "raised": "", "last": False}
    try:
      with _counted(self._deaths, (place, -1)):
        for found in self._read(self._items[place]):
          if isinstance(found, Asked):
            question = {"about": json.dumps(found.about), "clip": records.encode(found.clip)}
            yield {**empty, **question, "number": number}
          else:
            yield {**empty, "entry": json.dumps(found), "number": number}
          number += 1
      yield {**empty, "last": True, "number": number}
    except WorkerDied:
      return
    except Exception as error:
      yield {**empty, "raised": _line(error), "number": number}


class _Answer:
  """The second step of a work in an actor."""

  def __init__(self, work: Work, deaths: Any):
    self._answer, self._deaths = work.answerer(), deaths

  def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
    if not row["about"]:
      return row
    answered = {**row, "about": "", "clip": b""}
    try:
      with _counted(self._deaths, (row["place"], row["number"])):
        entry = self._answer(Asked(records.decode(row["clip"]), json.loads(row["about"])))
      return {**answered, "entry": json.dumps(entry)}
    except WorkerDied:
      return answered  # without an entry, so that its item never becomes complete
    except Exception as error:
      return {**answered, "raised": _line(error)}


class _Noted:
  """What is known of an item, and noted in its ledger in the order in which it was read, up to what nobody survived."""

  def __init__(self, work: Work, item: Item):
    self._path = work.ledger(item)
    self._book: Ledger | None = None
    self._early: dict[int, dict[str, Any]] = {}
    self.entries: list[Entry] = []

  def add(self, row: dict[str, Any]) -> bool:
    """Takes a row; True once the item is complete.

    Raises:
      KairosError: the work has raised an error.
    """
    if row["raised"]:
      raise KairosError(row["raised"])
    if row["entry"] or row["last"]:
      self._early[row["number"]] = row
    while next_row := self._early.pop(len(self.entries), None):
      if next_row["last"]:
        self.close()
        return True
      self.entries.append(json.loads(next_row["entry"]))
      if self._path and not self._book:
        self._book = Ledger(self._path).__enter__()
      if self._book:
        self._book.append(self.entries[-1])
    return False

  def close(self) -> None:
    """Closes the ledger."""
    if self._book:
      self._book.__exit__(None, None, None)
      self._book = None


def _connect(address: str) -> None:
  """Joins a cluster, once in a process."""
  os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
  try:
    import ray.data
  except ImportError as error:
    raise KairosError("the engine ray needs Ray Data: pip install 'kairos-jax[ray]'") from error
  if not ray.is_initialized():
    try:
      ray.init(address=address, logging_level="WARNING")
    except (ConnectionError, ValueError, RuntimeError) as error:
      raise KairosError(f"there is no Ray at --address={address}: {_line(error)}") from error
  context = ray.data.DataContext.get_current()
  context.enable_progress_bars = context.print_on_execution_start = False


def _line(error: BaseException) -> str:
  """An error in one line; that of another library with its kind."""
  text = " ".join(str(error).split())[:300]
  return text if isinstance(error, KairosError) else f"{type(error).__name__}: {text}"
