"""What every command says to a person: plain lines, and how far a long piece of work has come."""

import contextlib
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

_OUT, _ERR = Console(), Console(stderr=True)
_PLAIN_LINE_EVERY = 10.0  # seconds
_FILE_WIDTH = 160  # columns of a table that does not go to a terminal


def show(line: str = "", *, stderr: bool = False) -> None:
  """Prints a line as it is; one longer than the screen is not broken. A live bar stays below it."""
  _console(stderr).print(line, highlight=False, markup=False, soft_wrap=True)


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, stderr: bool = False) -> None:
  """Prints rows below a header, in columns; nothing where there are no rows."""
  table = Table(*header, box=None)
  for row in rows:
    table.add_row(*map(Text, row))  # as it is: brackets are no markup
  console = _console(stderr)
  if rows:
    (console if console.is_terminal else Console(stderr=stderr, width=_FILE_WIDTH)).print(table)


class Progress:
  """How far one piece of work has come; made by `progress`."""

  def __init__(self, bar: Bar, name: str, total: float, done: float, stderr: bool, lines: bool):
    self._bar, self._name, self._total, self._done, self._stderr = bar, name, total, done, stderr
    self._lines = lines and bar.disable
    self._task = bar.add_task(name, total=total, text="", count=self._count(done))
    bar.update(self._task, completed=done)
    self._last_line = time.monotonic()

  def update(self, done: float, text: str = "") -> None:
    """Says that `done` of the total is done, and something about it: losses, what comes next."""
    self._done = done
    self._bar.update(self._task, completed=done, text=text, count=self._count(done))
    now = time.monotonic()
    if self._lines and now - self._last_line > _PLAIN_LINE_EVERY:
      show(f"{self._name}: {self._count(done)}  {text}".rstrip(), stderr=self._stderr)
      self._last_line = now

  def advance(self, text: str = "") -> None:
    """Says that one more is done."""
    self.update(self._done + 1, text)

  def _count(self, done: float) -> str:
    return f"{done:.0%}" if self._total == 1 else f"{done:g}/{self._total:g}"


@contextlib.contextmanager
def progress(
  name: str, total: float, *, done: float = 0, stderr: bool = False, lines: bool = True
) -> Iterator[Progress]:
  """A live bar in a terminal, which goes when the block ends; elsewhere a plain line every ten seconds.

    with console.progress("closed loop", total=100) as bar:
      bar.update(7, "3 successes")

  Args:
    name: leads the bar and every line.
    total: of the work, in any unit; 1: a share, shown in per cent.
    done: of it before this call, by a run that is resumed.
    stderr: write to standard error, because standard output holds the command's result.
    lines: False where there is no terminal and the block prints lines of its own.
  """
  console = _console(stderr)
  columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"))
  bar = Bar(
    *columns, TextColumn("{task.fields[text]}"), console=console, transient=True, disable=not console.is_terminal
  )
  with bar:
    yield Progress(bar, name, total, done, stderr, lines)


def _console(stderr: bool) -> Console:
  return _ERR if stderr else _OUT
