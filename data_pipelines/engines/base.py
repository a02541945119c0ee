"""What work on many items is, and what runs it."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from data_pipelines.records import Clip
from kairos_jax.locations import Location

Item = Any  # picklable
Entry = dict[str, Any]  # JSON


@dataclasses.dataclass(frozen=True)
class Asked:
  """A clip that was read, and what the second step shall find out about it, as JSON."""

  clip: Clip
  about: Entry


@runtime_checkable
class Work(Protocol):
  """What is done with every item, in two steps that may run in different processes.

  The first reads files and takes a processor; the second runs models, and may take an accelerator. A work is picklable;
  each process opens the steps that it does once.
  """

  def reader(self) -> Callable[[Item], Iterator[Asked | Entry]]:
    """Gives what becomes of an item, in order: entries, and clips whose entries the second step makes.

    What it yields depends on the item and on files alone, because the item of a process that died is read again.
    """

  def answerer(self) -> Callable[[Asked], Entry]:
    """Gives the entry of a clip."""

  def ledger(self, item: Item) -> Location | None:
    """Where the entries of an item are noted, each as soon as it and those before it are known; or nowhere."""


class WorkerDied(Exception):
  """A process ended while it worked on this item alone: it ran out of memory, or a library crashed."""


@runtime_checkable
class Engine(Protocol):
  """Does a work on all items."""

  def __call__(self, work: Work, items: Sequence[Item]) -> Iterator[tuple[Item, list[Entry] | WorkerDied]]:
    """The entries of every item, as items become complete; what the work itself raises ends it."""


def no_questions(asked: Asked) -> Entry:
  """The second step of a work whose first one asks nothing."""
  raise NotImplementedError
