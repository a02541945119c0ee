"""Times implementations against each other and against the roofline. A wrong result is given no time."""

import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pallas_kernels import chips, timing, workload
from pallas_kernels.check import one_line
from pallas_kernels.chips import Chip
from pallas_kernels.dispatch import KERNELS
from pallas_kernels.workload import Function, Runner, Workload

RUNS, SECONDS = 10, 5.0  # timed rounds through all implementations: at least so many, and for so long
TOLERANCES = {  # of the largest number, by dtype and pass
  ("float32", "forward"): 1e-5,
  ("float32", "gradient"): 1e-4,
  ("bfloat16", "forward"): 2e-2,
  ("bfloat16", "gradient"): 2e-2,
}


class Result(NamedTuple):
  """One implementation, or a peer, at one case.

  Attributes:
    seconds: median; None if it has not earned one.
    roofline: share of what the device could do; None likewise.
    error: largest relative error of any output; None if it did not run.
    reason: why there is no time, in one line.
  """

  name: str
  seconds: float | None = None
  roofline: float | None = None
  error: float | None = None
  reason: str = ""


def default_cases(op: str) -> list[str]:
  """Those for a CPU where the present device is one, else those of the released shape."""
  on_cpu = jax.default_backend() == "cpu"
  return [name for name in workload.load(op).CASES if name.endswith("cpu") == on_cpu]


def present_chip(dtype: Any) -> Chip:
  """The present device: its published numbers where they are known, else measured ones at `dtype`."""
  device_kind = jax.devices()[0].device_kind
  published = [chip for chip in chips.CHIPS.values() if chip.device_kind == device_kind]
  return published[0] if published else _measured_chip(device_kind, dtype)


def measure(op: str, case: str, pass_name: str, chip: Chip) -> Iterator[Result]:
  """Verifies, then times XLA, the platform's kernel and all peers on the present device.

  Each is held to the float64 reference at a shortened case and, at the full one, to the first that was right there.

  Args:
    op, case: see `workload`.
    pass_name: "forward", or "gradient" for the forward and the backward pass.
    chip: whose roofline is meant.
  """
  work = workload.load(op)
  full, short = work.CASES[case], work.shortened(work.CASES[case])
  tolerance = TOLERANCES[jnp.dtype(full.dtype).name, pass_name]
  runs: dict[str, Callable[[], Any]] = {}
  errors: dict[str, float] = {}
  with _products(full.dtype):
    short_inputs, short_want = _oracle(work, short, pass_name)
    inputs, want = _inputs(work, full, pass_name), None
    short_runners = _runners(work, short)
    for name, runner in _runners(work, full).items():
      short_runner = short_runners[name]
      if isinstance(runner, str) or isinstance(short_runner, str):
        yield Result(name, reason=str(runner))
        continue
      try:
        error = relative_error(short_runner(*short_inputs)(), short_want)
        if error <= tolerance:
          run = runner(*inputs)
          got = run()
          want = got if want is None else want
          error = max(error, relative_error(got, want))
      except Exception as failure:  # out of memory, a shape that a peer does not take: the others go on
        yield Result(name, reason=f"failed: {one_line(failure)}")
        continue
      if error <= tolerance:
        runs[name], errors[name] = run, error
      else:
        yield Result(name, error=error, reason=f"wrong: off by {error:.1e} where {tolerance:.0e} is allowed")
    cost = workload.cost(work, full, pass_name)
    least = chips.roofline_seconds(chip, cost.flops, cost.hbm_bytes)
    for name, seconds in interleaved(runs).items():
      yield Result(name, seconds, least / seconds, errors[name])


def interleaved(runs: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
  """Median seconds of each, see `timing.interleaved`."""
  times = timing.interleaved(runs, RUNS, SECONDS)
  return {name: statistics.median(taken.wall for taken in of_one) for name, of_one in times.items()}


def relative_error(got: Sequence[Any], want: Sequence[Any]) -> float:
  """Largest difference over the largest number, of the worst array; infinite if any number is not a number."""
  worst = 0.0
  for ours, theirs in zip(got, want, strict=True):
    ours, theirs = to_numpy(ours), to_numpy(theirs)
    error = np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))
    worst = max(worst, float(error) if np.isfinite(error) else float("inf"))
  return worst


def to_numpy(x: Any) -> Float[np.ndarray, "..."]:
  """A JAX array or a torch tensor, of any float type and on any device, in float64."""
  return np.asarray(x.detach().double().cpu() if hasattr(x, "detach") else x, np.float64)


def jax_runner(function: Function) -> Runner:
  """Runs a function of JAX arrays, or its gradient, compiled."""

  def prepare(inputs: Sequence[Array], cotangents: Sequence[Array] | None) -> Callable[[], Sequence[Any]]:
    if cotangents is None:
      forward = jax.jit(function).lower(*inputs).compile()
      return lambda: jax.block_until_ready(forward(*inputs))
    gradient = jax.jit(workload.gradient(function)).lower(inputs, cotangents).compile()
    return lambda: jax.block_until_ready(gradient(inputs, cotangents))[1]

  return prepare


def _runners(work: Workload, case) -> dict[str, Runner | str]:
  """XLA first, to which the others are held; then the platform's kernel, then the peers."""
  names = ["xla", *(name for platform, name in KERNELS.items() if platform == jax.default_backend())]
  implementations = work.implementations(case)
  return {name: jax_runner(implementations[name]) for name in names} | dict(work.peers(case))


def _inputs(work: Workload, case, pass_name: str) -> tuple[tuple[Array, ...], tuple[Array, ...] | None]:
  inputs = work.inputs(case, jax.random.key(0))
  if pass_name == "forward":
    return inputs, None
  return inputs, workload.cotangents(work.implementations(case)["xla"], inputs, jax.random.key(1))


def _oracle(work: Workload, case, pass_name: str):
  """Inputs in the case's dtype, and what the reference makes of them in float64."""
  arguments = _inputs(work, case, pass_name)
  with jax.enable_x64(True):
    wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), arguments)
    want = jax_runner(work.implementations(case)["reference"])(*wide)()
    return arguments, [np.asarray(x) for x in want]


def _products(dtype) -> contextlib.AbstractContextManager:
  """A float32 case is about float32: no products of fewer digits, which accelerators would choose by themselves."""
  return jax.default_matmul_precision("float32") if dtype == jnp.float32 else contextlib.nullcontext()


def _measured_chip(device_kind: str, dtype) -> Chip:
  """What this machine reaches: a large matrix product, and a pass over an array much larger than its caches."""
  size, moved = 2048, [jnp.ones(1 << 26, jnp.float32)]
  product = jax_runner(lambda x: (x @ x,))([jnp.ones((size, size), dtype)], None)
  step = jax.jit(lambda x: x + 1, donate_argnums=0)

  def copy():  # in place: on a CPU the first touch of fresh memory takes many times longer than the traffic
    moved[0] = jax.block_until_ready(step(moved[0]))

  copy()
  seconds = interleaved({"product": product, "copy": copy})
  bytes_per_s = 2 * moved[0].nbytes / seconds["copy"]
  return Chip("measured", jax.default_backend(), device_kind, 2 * size**3 / seconds["product"], bytes_per_s, 0)
