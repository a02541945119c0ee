"""Picks the implementation of an operation: the one that is named, else the platform's kernel, else XLA."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import logging

KERNELS = {"tpu": "pallas_tpu", "gpu": "pallas_gpu"}  # platform -> the implementation written for it


class Unsupported(ValueError):
  """An implementation cannot do this; one line: "op: argument is value; allowed: ..."."""


def run(
  op: str, implementations: Mapping[str, Callable[..., Any]], named: str | None, *args: Any, **kwargs: Any
) -> Any:
  """Calls one of the implementations, under a named scope `{op}_{implementation}` that a profile shows.

  Args:
    op: the operation's name.
    implementations: name -> function; "xla", which refuses nothing, and the kernels of `KERNELS`.
    named: which to run; None: the kernel of `jax.default_backend()`, or "xla" where it has none or refuses.
    *args: for the implementation.
    **kwargs: likewise.

  Raises:
    Unsupported: no such name, or the implementation that was named refuses these arguments.
  """
  if named is not None and named not in implementations:
    raise Unsupported(f"{op}: implementation is {named!r}; allowed: {', '.join(implementations)}")

  def call(name: str) -> Any:
    with jax.named_scope(f"{op}_{name}"):
      return implementations[name](*args, **kwargs)

  if named is not None:
    return call(named)
  choice = KERNELS.get(jax.default_backend(), "xla")
  try:
    result = call(choice)
  except Unsupported as reason:
    _log_once(f"{op}: xla instead of {choice}: {reason}")
    return call("xla")
  _log_once(f"{op}: {choice}")
  return result


@functools.cache
def _log_once(line: str) -> None:
  logging.info("%s", line)
