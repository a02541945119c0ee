"""Compiles the Pallas kernels for accelerators that are not here, and tunes their tiles on the one that is.

usage:
  kairos kernels check [--targets=v5e,v5p,v6e,tpu7x,sm90] [--op=OP] [--small] [--json]
  kairos kernels tune --op=OP [--case=CASE]

`check` compiles every kernel, forward and backward, at the released shape and 32k tokens, and fails if one does not
compile. It prints the on-chip memory that the compiler took, the least HBM traffic and the operations by formula, and
the time below which no kernel can go on that chip; for a GPU also each kernel's registers and what they spill. TPU
targets need libtpu, but no TPU; sm90 needs the `sm90` extra, but no GPU, and is only translated to Triton without it.

`tune` tries tile sizes on the present TPU or GPU and keeps the fastest. `kairos bench kernels` times the kernels.
"""

import dataclasses
import json
from collections.abc import Sequence

from absl import flags

from kairos_jax.cli import operations
from kairos_jax.errors import KairosError

TARGETS = "v5e,v5p,v6e,tpu7x,sm90"


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags of `check` and `tune`."""
  del argv
  flags.DEFINE_string("targets", TARGETS, "check: chips to compile for", flag_values=table)
  flags.DEFINE_boolean("small", False, "check: 4k tokens instead of 32k", flag_values=table)
  flags.DEFINE_string("op", None, "one operation (default: all)", flag_values=table)
  flags.DEFINE_string("case", None, "tune: one case (default: those for the device)", flag_values=table)
  flags.DEFINE_boolean("json", False, "check: print JSON instead of a table", flag_values=table)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
  """Runs `check` or `tune`; 1 if a kernel does not compile.

  Raises:
    KairosError: neither was asked for; an unknown target, op or case; something is not installed or not here.
  """
  if arguments not in (["check"], ["tune"]):
    raise KairosError(f"kernels takes one of check, tune; got {' '.join(arguments) or 'nothing'}")
  if arguments == ["check"]:
    operations.compile_for_others()
  if arguments == ["tune"] and not values.op:
    from pallas_kernels import workload

    raise KairosError(f"kernels tune needs --op; there are {', '.join(workload.OPS)}")
  ops = operations.chosen(values.op)
  if arguments == ["check"]:
    return _check(ops, values.targets.split(","), values.small, values.json)
  return _tune(operations.cases(ops, values.case))


def _check(ops: list[str], targets: list[str], small: bool, as_json: bool) -> int:
  from kairos_jax.console import progress, show
  from pallas_kernels import check, chips

  for target in targets:
    chip = chips.CHIPS[operations.known("target", target, chips.CHIPS)]
    if chip.platform == "tpu" and (reason := check.missing(target)):
      raise KairosError(f"{reason} (or leave TPUs out with --targets)")
  if not as_json:
    show(
      f"{'op':<17} {'case':<12} {'pass':<9} {'target':<6} {'on chip, KiB':>18} {'HBM, GB':>8} {'TFLOP':>7} "
      f"{'roofline, ms':>12}  result"
    )
  rows: list[check.Row] = []
  programs = check.programs(ops, small)
  with progress("compiling", len(targets) * len(programs), stderr=as_json, lines=False) as bar:
    for target in targets:
      for program in programs:
        bar.update(len(rows), " ".join([target, *program]))
        rows.append(check.check(target, *program))
        if not as_json:
          show(_check_line(rows[-1], chips.CHIPS[target]))
          for kernel in rows[-1].kernels:
            if kernel.registers is not None:
              show(_kernel_line(kernel))
  failed = [row for row in rows if row.outcome == "failed"]
  if as_json:
    show(json.dumps([dataclasses.asdict(row) | {"on_chip_bytes": row.on_chip_bytes} for row in rows], indent=2))
  else:
    for reason in dict.fromkeys(row.reason for row in rows if row.outcome == "lowered"):
      show(f"\n{reason}")
    counts = [(outcome, sum(row.outcome == outcome for row in rows)) for outcome in ("compiled", "lowered", "failed")]
    show("\n" + ", ".join(f"{count} {outcome}" for outcome, count in counts if count))
  return 1 if failed else 0


def _check_line(row, chip) -> str:
  on_chip = "-" if row.on_chip_bytes is None else f"{row.on_chip_bytes >> 10:,} of {chip.on_chip_bytes >> 10:,}"
  result = f"failed: {row.reason}" if row.outcome == "failed" else f"{row.outcome} in {row.compile_seconds:.1f} s"
  return (
    f"{row.op:<17} {row.case:<12} {row.pass_name:<9} {row.target:<6} {on_chip:>18} {row.hbm_bytes / 1e9:>8.2f} "
    f"{row.flops / 1e12:>7.3f} {row.roofline_seconds * 1e3:>12.2f}  {result}"
  )


def _kernel_line(kernel) -> str:
  spilled = f", {kernel.spill_bytes} bytes spilled" if kernel.spill_bytes else ""
  return f"  {kernel.name:<46} {kernel.on_chip_bytes >> 10:>11} KiB, {kernel.registers} registers{spilled}"


def _tune(cases: list[tuple[str, str]]) -> int:
  import jax

  from kairos_jax.console import progress, show
  from pallas_kernels import tiles, tune
  from pallas_kernels.dispatch import KERNELS

  if jax.default_backend() not in KERNELS:
    raise KairosError(f"kernels tune needs a TPU or a GPU; JAX finds only: {jax.devices()[0].device_kind}")
  with progress("tuning", len(cases), lines=False) as bar:
    for done, (op, case) in enumerate(cases):
      bar.update(done, f"{op} {case}")
      trials = list(tune.tune(op, case))
      for trial in sorted(trials, key=lambda trial: trial.seconds or float("inf")):
        show(f"{op} {case} {trial.tiling}: " + (f"{trial.seconds * 1e3:.3f} ms" if trial.seconds else trial.reason))
  show(f"\nthe fastest are in {tiles.PATH}")
  return 0
