"""Picks the implementation of an operation: the one that is named, or the kernel of the platform that is compiled for.

The platform is that of the program, not of the machine that traces it: under `jit` it is known only when the program is
lowered, and a CPU may lower for a TPU. So "auto" traces every kernel beside XLA, and lowering keeps one of them.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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
  is_array = tuple(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves)  # the rest is part of the program
  arrays = [leaf for leaf, traced in zip(leaves, is_array, strict=True) if traced]
  constants = tuple((type(leaf), leaf) for leaf, traced in zip(leaves, is_array, strict=True) if not traced)
  program = _Program(op, tuple(implementations.items()), tree, is_array, constants)
  if any(isinstance(array, jax.core.Tracer) for array in arrays):
    return _traced(program, *arrays)
  return _choose(program, _platform(arrays), arrays)  # computed at once, where the arrays are


class _Program(NamedTuple):
  """A call without its arrays: what its trace depends on beside their shapes.

  Attributes:
    op: the operation's name.
    implementations: names and functions.
    tree: of (args, kwargs).
    is_array: of each leaf.
    constants: the other leaves, each with its type, because 1 == 1.0 == True.
  """

  op: str
  implementations: tuple[tuple[str, Callable[..., Any]], ...]
  tree: jax.tree_util.PyTreeDef
  is_array: tuple[bool, ...]
  constants: tuple[tuple[type, Any], ...]

  def run(self, name: str, *arrays: Any) -> Any:
    given, constants = iter(arrays), iter(self.constants)
    leaves = [next(given) if traced else next(constants)[1] for traced in self.is_array]
    args, kwargs = jax.tree.unflatten(self.tree, leaves)
    try:
      return _scoped(self.op, name, dict(self.implementations)[name])(*args, **kwargs)
    except Unsupported as reason:
      raise _Refusal(name) from reason


# Tracing every kernel costs more than tracing the rest of a layer: equal calls of a process share a trace.
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _traced(program: _Program, *arrays: Any) -> Any:
  return _choose(program, None, arrays)


def _choose(program: _Program, platform: str | None, arrays: Sequence[Any]) -> Any:
  """Runs the kernel of a platform, None: of any that the program will be lowered for; "xla" where that cannot."""
  names = [name for name, _ in program.implementations]
  kernels = {of: name for of, name in KERNELS.items() if name in names and platform in (None, of)}
  while kernels:
    branches = {_LOWERING[of]: functools.partial(program.run, name) for of, name in kernels.items()}
    try:
      return jax.lax.platform_dependent(*arrays, **branches, default=functools.partial(program.run, "xla"))
    except _Refusal as refusal:
      _log_once(f"{program.op}: xla instead of {refusal.name}: {refusal.__cause__}")
      kernels = {of: name for of, name in kernels.items() if name != refusal.name}
  return program.run("xla", *arrays)


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
