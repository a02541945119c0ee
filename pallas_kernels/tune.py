"""Finds the fastest tile sizes of a kernel on the present accelerator and keeps them in `tiles.json`."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import bench, tiles, workload
from pallas_kernels.check import one_line
from pallas_kernels.dispatch import KERNELS


class Trial(NamedTuple):
  """One tiling: the median seconds of a forward and a backward pass, or in one line why there are none."""

  tiling: Any
  seconds: float | None
  reason: str = ""


def tune(op: str, case: str) -> Iterator[Trial]:
  """Tries every tiling that fits on the chip, saves the fastest, and yields all: those without a time first.

  Raises:
    KeyError: the present device has no kernel.
  """
  work = workload.load(op)
  full = work.CASES[case]
  key, tilings = work.tilings(full, KERNELS[jax.default_backend()])
  inputs = work.inputs(full, jax.random.key(0))
  xla = work.implementations(full)["xla"]
  arguments = inputs, workload.cotangents(xla, inputs, jax.random.key(1))
  want = bench.jax_runner(xla)(*arguments)()
  tolerance = bench.TOLERANCES[jnp.dtype(full.dtype).name, "gradient"]

  runs: dict[str, Callable[[], Any]] = {}
  named = {str(tiling): tiling for tiling in tilings}
  for name, tiling in named.items():
    try:
      run = bench.jax_runner(tilings[tiling])(*arguments)
      error = bench.relative_error(run(), want)
    except Exception as refusal:  # a compiler raises whatever it likes
      yield Trial(tiling, None, one_line(refusal))
      continue
    if error <= tolerance:
      runs[name] = run
    else:
      yield Trial(tiling, None, f"wrong: off by {error:.1e} where {tolerance:.0e} is allowed")
  seconds = bench.interleaved(runs)
  if seconds:
    best = min(seconds, key=seconds.__getitem__)
    tiles.save(op, jax.devices()[0].device_kind, key, dataclasses.asdict(named[best]), seconds[best])
  yield from (Trial(named[name], taken) for name, taken in seconds.items())
