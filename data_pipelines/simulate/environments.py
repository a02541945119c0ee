"""Simulated robots by name, as `kairos evaluate --env` takes them: a robot alone is all of its tasks."""

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from data_pipelines.simulate.fetch import FetchPickPlace
from data_pipelines.simulate.metaworld import TASKS, MetaWorld
from kairos_jax.errors import KairosError


@runtime_checkable
class Scripted(Protocol):
  """An environment (kairos_jax/interfaces.py) that knows how its task is done."""

  embodiment: str
  instruction: str

  def reset(self, seed: int) -> Any:
    """Begins the episode that the seed names."""

  def step(self, action: Float[np.ndarray, "A"]) -> tuple[Any, bool, bool]:
    """Moves for one control step: the observation, whether the episode is over, and whether it succeeded."""

  def expert(self) -> Float[np.ndarray, "A"]:
    """The next action of its script."""


ENVIRONMENTS: dict[str, Callable[[int], Scripted]] = {  # each takes the size of the picture, pixels
  **{f"metaworld:{task}": functools.partial(MetaWorld, task) for task in TASKS},
  "fetch:pick-place": FetchPickPlace,
}


def named(name: str) -> list[str]:
  """The environments that a name means: itself, or all of a robot's.

  Raises:
    KairosError: there are none.
  """
  found = [one for one in ENVIRONMENTS if name in (one, one.partition(":")[0])]
  if not found:
    raise KairosError(f"no environment {name!r}: {', '.join(ENVIRONMENTS)}, or the part before the colon for all")
  return found
