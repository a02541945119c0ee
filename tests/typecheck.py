"""The run-time checker of signatures, shapes included, that tests/conftest.py puts on all modules of PACKAGES.

Its cost in processor time: tests/flow/test_objective.py takes 1.11 times as long with it, tests/training/test_loop.py
1.21 times, and tests/data_pipelines/test_loader.py, which compiles nothing, 1.7 times (7 s instead of 4 s).

It is looser than the signatures in six ways:

* numpy arrays are taken wherever a signature says `Array`, for functions take both alike;
* numpy's numbers stand for Python's, and whole numbers for floats;
* pytrees may be made of anything: JAX rebuilds them with shapes, types, axis numbers or None in the place of arrays;
* of a sequence one element is looked at, drawn at random, and of a mapping the first;
* the bodies of kernels, whose arguments are references, and functions that are nested in others for JAX to call, often
  have no annotations, and where there are none nothing is checked;
* a test that gives values of wrong types on purpose, to see them refused, is marked `mistakes` and runs unchecked.
"""

import contextlib
from collections.abc import Iterator

import jax
import jaxtyping
import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

PACKAGES = ["data_pipelines", "experiments", "kairos_jax", "pallas_kernels"]
CHECK = "tests.typecheck.check"
PYTREES = {"Cache", "Context", "DeltaState", "FrameCache", "Memory", "Span", "Stream", "TrainState", "_Shared"}

_numbers = FrozenDict({int: int | np.integer, float: float | int | np.floating | np.integer})
_beartype = beartype(conf=BeartypeConf(hint_overrides=_numbers))


def install() -> None:
  """Has the modules of PACKAGES checked that are imported from now on."""
  jaxtyping.Array = jax.Array | np.ndarray
  jaxtyping.install_import_hook(PACKAGES, CHECK)


def check(function):
  """What the import hook puts around every function, and around `__init__` of every dataclass."""
  owner, _, name = function.__qualname__.rpartition(".")
  return function if name == "__init__" and owner in PYTREES else _beartype(function)


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
  """Within it nothing is checked."""
  jaxtyping.config.update("jaxtyping_disable", True)
  try:
    yield
  finally:
    jaxtyping.config.update("jaxtyping_disable", False)
