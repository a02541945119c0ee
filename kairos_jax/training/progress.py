"""What a person sees of a running stage: a live bar in a terminal, a plain line now and then elsewhere."""

import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

_PLAIN_LINE_EVERY = 10.0  # seconds


class Progress:
  """Progress of one stage; use as a context manager."""

  def __init__(self, name: str, step: int, steps: int, console: Console | None = None):
    """Starts the display.

    Args:
      name: the stage, leading every line.
      step: steps already done, by the run that is resumed.
      steps: steps in all.
      console: where to write; standard output if None.
    """
    self._console = console or Console()
    self._name, self._steps = name, steps
    self._first: tuple[int, float] | None = None  # step and time of the first update
    self._last_line = time.monotonic()
    columns = (
      TextColumn("[bold]{task.description}"),
      BarColumn(None),
      MofNCompleteColumn(),
      TextColumn("{task.fields[text]}"),
    )
    self._bar = Bar(*columns, console=self._console, disable=not self._console.is_terminal)
    self._task = self._bar.add_task(name, total=steps, completed=step, text="")

  def __enter__(self) -> "Progress":
    self._bar.start()
    return self

  def __exit__(self, *_) -> None:
    self._bar.stop()

  def announce(self, phase: str) -> None:
    """Prints what begins now."""
    self._console.print(f"{self._name}: {phase}", highlight=False, markup=False, soft_wrap=True)

  def update(self, step: int, metrics: dict[str, float]) -> None:
    """Shows `step` of the run, the losses among `metrics`, steps per second and the time left."""
    now = time.monotonic()
    text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if "loss" in name)
    if self._first:  # the first step only starts the clock, for it compiled
      rate = (step - self._first[0]) / max(now - self._first[1], 1e-9)
      text += f"  {rate:.1f} steps/s  {timedelta(seconds=round((self._steps - step) / rate))} left"
    else:
      self._first = (step, now)
    self._bar.update(self._task, completed=step, text=text)
    if self._bar.disable and now - self._last_line > _PLAIN_LINE_EVERY:
      self.announce(f"{step}/{self._steps}  {text}")
      self._last_line = now
