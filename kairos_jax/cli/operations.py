"""What the commands that compile and time kernels share: which ones a line means, and for whom they are compiled."""

import os
from collections.abc import Iterable

from kairos_jax.cli.arguments import did_you_mean
from kairos_jax.errors import KairosError


def compile_for_others() -> None:
  """Before JAX is imported: programs are for other machines, so this one's devices and cache are left alone."""
  os.environ.update(JAX_PLATFORMS="cpu", JAX_ENABLE_COMPILATION_CACHE="false")


def known(what: str, name: str, names: Iterable[str]) -> str:
  """The name; KairosError unless it is one of `names`."""
  if name not in names:
    raise KairosError(f"no {what} {name!r}{did_you_mean(name, names)}; there are {', '.join(names)}")
  return name


def chosen(op: str | None) -> list[str]:
  """The operation of this name, or all. Raises KairosError for an unknown one."""
  from pallas_kernels import workload

  return list(workload.OPS) if op is None else [known("op", op, workload.OPS)]


def cases(ops: list[str], case: str | None) -> list[tuple[str, str]]:
  """(op, case) of what is to be run on the present device. Raises KairosError for an unknown case."""
  from pallas_kernels import bench, workload

  if case is None:
    return [(op, name) for op in ops for name in bench.default_cases(op)]
  known("case", case, {name: op for op in ops for name in workload.load(op).CASES})
  return [(op, case) for op in ops if case in workload.load(op).CASES]
