"""Compiles the Pallas kernels for accelerators that are not here, times them on what is here, and tunes their tiles.

usage:
  kairos kernels check [--targets=v5e,v5p,v6e,tpu7x,sm90] [--op=OP] [--small] [--json]
  kairos kernels bench [--op=OP] [--case=CASE] [--json]
  kairos kernels tune --op=OP [--case=CASE]

`check` compiles every kernel, forward and backward, at the released shape and 32k tokens, and fails if one does not
compile. It prints the on-chip memory that the compiler took, the least HBM traffic and the operations by formula, and
the time below which no kernel can go on that chip; for a GPU also each kernel's registers and what they spill. TPU
targets need libtpu, but no TPU; sm90 needs the `sm90` extra, but no GPU, and is only translated to Triton without it.

`bench` holds every implementation, and other libraries where they are installed, against the reference, and then times
those that are right, in turns. `tune` tries tile sizes on the present TPU or GPU and keeps the fastest.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from kairos_jax.cli.arguments import did_you_mean
from kairos_jax.errors import KairosError

TARGETS = "v5e,v5p,v6e,tpu7x,sm90"


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags of `check`, `bench` and `tune`."""
  del argv
  flags.DEFINE_string("targets", TARGETS, "check: chips to compile for", flag_values=table)
  flags.DEFINE_boolean("small", False, "check: 4k tokens instead of 32k", flag_values=table)
  flags.DEFINE_string("op", None, "one operation (default: all)", flag_values=table)
  flags.DEFINE_string("case", None, "bench, tune: one case (default: those for the device)", flag_values=table)
  flags.DEFINE_boolean("json", False, "check, bench: print JSON instead of a table", flag_values=table)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
  """Runs `check`, `bench` or `tune`; 1 if a kernel does not compile, or an implementation fails or is wrong.

  Raises:
    KairosError: none of them was asked for; an unknown target, op or case; something is not installed or not here.
  """
  if arguments not in (["check"], ["bench"], ["tune"]):
    raise KairosError(f"kernels takes one of check, bench, tune; got {' '.join(arguments) or 'nothing'}")
  if arguments == [
    "check"
  ]:  # for other machines: this one's devices are left alone, and its cache holds no such programs
    os.environ.update(JAX_PLATFORMS="cpu", JAX_ENABLE_COMPILATION_CACHE="false")
  else:  # other libraries' kernels share the device with ours
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  from pallas_kernels import workload

  if arguments == ["tune"] and not values.op:
    raise KairosError(f"kernels tune needs --op; there are {', '.join(workload.OPS)}")
  ops = [_known("op", values.op, workload.OPS)] if values.op else list(workload.OPS)
  match arguments:
    case ["check"]:
      return _check(ops, values.targets.split(","), values.small, values.json)
    case ["bench"]:
      return _bench(_cases(ops, values.case), values.json)
    case _:
      return _tune(_cases(ops, values.case))


def _known(what: str, name: str, known) -> str:
  if name not in known:
    raise KairosError(f"no {what} {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
  return name


def _cases(ops: list[str], case: str | None) -> list[tuple[str, str]]:
  """(op, case) of what is to be run on the present device."""
  from pallas_kernels import bench, workload

  if case is None:
    return [(op, name) for op in ops for name in bench.default_cases(op)]
  known = {name: op for op in ops for name in workload.load(op).CASES}
  _known("case", case, known)
  return [(op, case) for op in ops if case in workload.load(op).CASES]


def _check(ops: list[str], targets: list[str], small: bool, as_json: bool) -> int:
  from rich.console import Console
  from rich.progress import Progress

  from pallas_kernels import check, chips

  for target in targets:
    chip = chips.CHIPS[_known("target", target, chips.CHIPS)]
    if chip.platform == "tpu" and (reason := check.missing(target)):
      raise KairosError(f"{reason} (or leave TPUs out with --targets)")
  console = Console(stderr=as_json)
  show = _printer(console)
  if not as_json:
    show(
      f"{'op':<17} {'case':<12} {'pass':<9} {'target':<6} {'on chip, KiB':>18} {'HBM, GB':>8} {'TFLOP':>7} "
      f"{'roofline, ms':>12}  result"
    )
  rows = []
  programs = check.programs(ops, small)
  with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
    task = progress.add_task("compiling", total=len(targets) * len(programs))
    for target in targets:
      for program in programs:
        progress.update(task, description=" ".join([target, *program]))
        rows.append(check.check(target, *program))
        if not as_json:
          show(_check_line(rows[-1], chips.CHIPS[target]))
          for kernel in rows[-1].kernels:
            if kernel.registers is not None:
              show(_kernel_line(kernel))
        progress.advance(task)
  failed = [row for row in rows if row.outcome == "failed"]
  if as_json:
    print(json.dumps([dataclasses.asdict(row) | {"on_chip_bytes": row.on_chip_bytes} for row in rows], indent=2))
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


def _bench(cases: list[tuple[str, str]], as_json: bool) -> int:
  from rich.console import Console
  from rich.progress import Progress

  from pallas_kernels import bench, workload
  from pallas_kernels.check import PASSES

  console = Console(stderr=as_json)
  show = _printer(console)
  report: list[dict[str, Any]] = []
  chips: dict[Any, Any] = {}
  with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
    task = progress.add_task("measuring the device", total=len(cases) * len(PASSES))
    for op, name in cases:
      case = workload.load(op).CASES[name]
      if case.dtype not in chips:
        chips[case.dtype] = chip = bench.present_chip(case.dtype)
        measured = ", as measured here" if chip.name == "measured" else ""
        show(f"{chip.device_kind}: {chip.flops / 1e12:.3g} TFLOP/s, {chip.hbm_bytes_per_s / 1e9:.3g} GB/s{measured}")
      chip = chips[case.dtype]
      show(f"\n{op} {name}: {case}")
      for pass_name in PASSES:
        progress.update(task, description=f"{op} {name} {pass_name}")
        for result in bench.measure(op, name, pass_name, chip):
          report.append({"op": op, "case": name, "pass": pass_name, **result._asdict()})
          show(_bench_line(pass_name, result))
        progress.advance(task)
  if as_json:
    print(json.dumps({"chips": [dataclasses.asdict(chip) for chip in chips.values()], "results": report}, indent=2))
  return 1 if any(result["reason"].startswith(("wrong", "failed")) for result in report) else 0


def _bench_line(pass_name: str, result) -> str:
  line = f"  {pass_name:<9} {result.name:<24}"
  if result.seconds is None:
    return f"{line} {result.reason}"
  return f"{line} {result.seconds * 1e3:>10.3f} ms {result.roofline:>7.1%} of the roofline, error {result.error:.0e}"


def _tune(cases: list[tuple[str, str]]) -> int:
  import jax
  from rich.console import Console
  from rich.progress import Progress

  from pallas_kernels import tiles, tune
  from pallas_kernels.dispatch import KERNELS

  if jax.default_backend() not in KERNELS:
    raise KairosError(f"kernels tune needs a TPU or a GPU; JAX finds only: {jax.devices()[0].device_kind}")
  console = Console()
  show = _printer(console)
  with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
    task = progress.add_task("", total=len(cases))
    for op, case in cases:
      progress.update(task, description=f"{op} {case}")
      trials = list(tune.tune(op, case))
      for trial in sorted(trials, key=lambda trial: trial.seconds or float("inf")):
        show(f"{op} {case} {trial.tiling}: " + (f"{trial.seconds * 1e3:.3f} ms" if trial.seconds else trial.reason))
      progress.advance(task)
  show(f"\nthe fastest are in {tiles.PATH}")
  return 0


def _printer(console) -> Callable[[str], None]:
  return lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)
