"""Runs golden cases: the reference's inputs through this model, every output held against the reference's.

usage:
  kairos parity FOLDER
  kairos parity FOLDER/c01_gated_delta_rule FOLDER/c05_video_tower.json --all
  kairos parity FOLDER --allow-skipped

A case is a pair NAME.json and NAME.safetensors; the first part of its name says what it tests. Each prints one line,
with its worst tensor, and one more for every tensor that fails. Errors are the largest absolute ones, in float32.
A case `..._as_shipped` holds a fault of the reference, and is skipped.
A case of a kind that this package has no runner for has failed, unless --allow-skipped says that it may be left out.
Exit code: 0 if all passed, 1 if any failed, 2 if nothing ran.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from kairos_jax.errors import KairosError

if TYPE_CHECKING:
  from kairos_jax.interop.parity import Comparison
  from kairos_jax.interop.verdict import Verdict


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags of `parity`."""
  del argv
  flags.DEFINE_bool("all", False, "a line for every tensor, not only for the worst", flag_values=table)
  flags.DEFINE_bool("allow-skipped", False, "a case that nothing here can run is no failure", flag_values=table)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
  """Runs the cases that the arguments name.

  Raises:
    KairosError: no path is given, or one names no case.
  """
  from kairos_jax.console import progress, show
  from kairos_jax.interop import verdict

  if not arguments:
    raise KairosError("parity needs a golden case or a folder of them")
  cases = verdict.select(arguments)
  width = max(len(case.stem) for case in cases)
  verdicts = []
  show(f"{'case':<{width}}  {'':7}  {'tensors':>7}  {'error':>7}  {'allowed':>7}  tensor")
  with progress("cases", len(cases), lines=False) as bar:
    results = verdict.judge(cases, allow_skipped=bool(values["allow-skipped"].value))
    for done, case in enumerate(cases):
      bar.update(done, case.stem)
      verdicts.append(result := next(results))
      show(f"{result.case:<{width}}  {_outcome(result)}")
      for comparison in result.comparisons if values.all else result.failures:
        show(f"{'':<{width}}  {'ok' if comparison.passed else 'FAILED':<7}  {'':7}  {_numbers(comparison)}")

  skipped = sum(bool(v.skipped) for v in verdicts)
  passed = sum(v.passed for v in verdicts)
  failed = len(verdicts) - passed - skipped
  show(f"\n{passed} cases passed, {failed} failed, {skipped} skipped")
  return 1 if failed else 0 if passed else 2


def _outcome(result: "Verdict") -> str:
  if result.skipped:
    return f"skipped  {result.skipped}"
  if result.error:
    return f"FAILED   {result.error}"
  return f"{'ok' if result.passed else 'FAILED':<7}  {len(result.comparisons):>7}  {_numbers(result.worst)}"


def _numbers(comparison: "Comparison | None") -> str:
  return f"{comparison.error:7.1e}  {comparison.tolerance:7.1g}  {comparison.tensor}" if comparison else ""
