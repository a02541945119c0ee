"""Judges many golden cases: each passes, fails or may be skipped, and one that breaks does not stop the rest."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kairos_jax.errors import KairosError
from kairos_jax.interop import golden, parity
from kairos_jax.interop.parity import Comparison


@dataclasses.dataclass(frozen=True)
class Verdict:
  """How one case went.

  Attributes:
    case: its name, or its file's where it could not be read.
    comparisons: the tensors that were held against the reference's, in the case's order.
    error: why it stopped early or could not be run, in one line; "" if it ended well.
    skipped: why it was left out, where that is allowed; "" if it was not.
  """

  case: str
  comparisons: tuple[Comparison, ...] = ()
  error: str = ""
  skipped: str = ""

  @property
  def passed(self) -> bool:
    """Ran to its end, compared something, and every tensor is within its tolerance."""
    return bool(self.comparisons) and not self.error and not self.failures

  @property
  def failures(self) -> tuple[Comparison, ...]:
    return tuple(comparison for comparison in self.comparisons if not comparison.passed)

  @property
  def worst(self) -> Comparison | None:
    """The tensor nearest to its tolerance, or furthest beyond it."""
    return max(self.comparisons, key=_strain, default=None)


def select(paths: Sequence[str]) -> list[Path]:
  """The cases that the paths name, each once.

  Raises:
    KairosError: a path names no case.
  """
  return list(dict.fromkeys(golden.find_cases(list(paths))))


def judge(paths: Iterable[Path], *, allow_skipped: bool = False) -> Iterator[Verdict]:
  """Runs the cases one after the other.

  Args:
    allow_skipped: a case of a kind without a runner is skipped; otherwise it has failed.
  """
  for path in paths:
    if reason := parity.left_out(path.stem):
      yield Verdict(path.stem, skipped=reason)
      continue
    if reason := _no_runner(path.stem):
      yield Verdict(path.stem, skipped=reason) if allow_skipped else Verdict(path.stem, error=reason)
      continue
    comparisons: list[Comparison] = []
    try:
      comparisons.extend(parity.run_case(golden.read_case(path)))
      error = "" if comparisons else "it compared nothing"
    except Exception as problem:  # whatever a case provokes is its own failure
      error = _one_line(problem)
    yield Verdict(path.stem, tuple(comparisons), error)


def _no_runner(name: str) -> str:
  kind = name.split("_")[0]
  return "" if kind in parity.RUNNERS else f"no runner for {kind!r}; there are {', '.join(parity.RUNNERS)}"


def _strain(comparison: Comparison) -> float:
  """Error in units of the tolerance; where only equality will do, any error is infinite, as is a NaN."""
  if comparison.passed:
    return comparison.error / comparison.tolerance if comparison.tolerance else 0.0
  return comparison.error / comparison.tolerance if comparison.tolerance and comparison.error < math.inf else math.inf


def _one_line(problem: Exception) -> str:
  text = (str(problem).strip().splitlines() or [""])[0]
  return text if isinstance(problem, KairosError) else f"{type(problem).__name__}: {text}"
