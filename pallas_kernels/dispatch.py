"""Picks the implementation of an operation: the one that is named, or the kernel of the platform that is compiled for.

The platform is that of the program, not of the machine that traces it: under `jit` it is known only when the program is
lowered, and a CPU may lower for a TPU. So "auto" traces every kernel beside XLA, and lowering keeps one of them.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

KERNELS = {"tpu": "pallas_tpu", "gpu": "pallas_gpu"}  # platform -> the implementation written for it
AUTO = "auto"
# Of JAX's lowering; the kernels for GPUs are Triton's for NVIDIA.
_LOWERING = {"tpu": "tpu", "gpu": "cuda"}


class Unsupported(ValueError):
  """An implementation cannot do this; one line: "op: argument is value; allowed: ..."."""


def run(op: str, implementations: Mapping[str, Callable[..., Any]], named: str, *args: Any, **kwargs: Any) -> Any:
  """Calls one of the implementations, under a named scope `{op}_{implementation}` that a profile shows.

  Args:
    op: the operation's name.
    implementations: name -> function; "xla", which refuses nothing, and the kernels of `KERNELS`.
    named: which to run; "auto": the kernel of the platform that the program is lowered for, or "xla" where it has none
      or refuses these arguments.
    *args: for the implementation.
    **kwargs: likewise.

  Raises:
    Unsupported: no such name, or the implementation that was named refuses these arguments.
  """
  if named != AUTO:
    if named not in implementations:
      raise Unsupported(f"{op}: implementation is {named!r}; allowed: {', '.join((AUTO, *implementations))}")
    return _scoped(op, named, implementations[named])(*args, **kwargs)

  leaves, tree = jax.tree.flatten((args, kwargs))
  traced = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]  # the rest is part of the program
  arrays = [leaf for leaf, is_array in zip(leaves, traced, strict=True) if is_array]

  def branch(name: str, *arrays: Any) -> Any:
    values = iter(arrays)
    given = [next(values) if is_array else leaf for leaf, is_array in zip(leaves, traced, strict=True)]
    args, kwargs = jax.tree.unflatten(tree, given)
    try:
      return _scoped(op, name, implementations[name])(*args, **kwargs)
    except Unsupported as reason:
      raise _Refusal(name) from reason

  kernels = {platform: name for platform, name in KERNELS.items() if name in implementations}
  if not any(isinstance(array, jax.core.Tracer) for array in arrays):  # computed at once, where the arrays are
    here = _platform(arrays)
    kernels = {platform: name for platform, name in kernels.items() if platform == here}
  while kernels:
    branches = {_LOWERING[platform]: functools.partial(branch, name) for platform, name in kernels.items()}
    try:
      return jax.lax.platform_dependent(*arrays, **branches, default=functools.partial(branch, "xla"))
    except _Refusal as refusal:
      _log_once(f"{op}: xla instead of {refusal.name}: {refusal.__cause__}")
      kernels = {platform: name for platform, name in kernels.items() if name != refusal.name}
  return branch("xla", *arrays)


def _platform(arrays: Sequence[Any]) -> str:
  devices = (next(iter(array.devices())) for array in arrays if isinstance(array, jax.Array))
  return getattr(next(devices, None), "platform", jax.default_backend())


class _Refusal(Exception):
  """Which kernel cannot do it; its cause says why."""

  def __init__(self, name: str):
    super().__init__(name)
    self.name = name


def _scoped(op: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
  return jax.named_scope(f"{op}_{name}")(function)


@functools.cache
def _log_once(line: str) -> None:
  logging.debug("%s", line)
