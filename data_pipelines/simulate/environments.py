"""Simulated robots by name, as `kairos evaluate --env` takes them: a part of a name is all tasks that begin with it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from data_pipelines.simulate.fetch import FetchPickPlace
from data_pipelines.simulate.libero import HORIZONS, TASKS, Libero
from data_pipelines.simulate.metaworld import INSTRUCTIONS, MetaWorld
from kairos_jax.errors import KairosError


@runtime_checkable
class Scripted(Protocol):
  """An environment (kairos_jax/interfaces.py) that knows how its task is done.

  Attributes:
    license: of what it shows, for clips.
    pictures: whether observations have any. A step without is the same one, and cheaper.
  """

  embodiment: str
  instruction: str
  license: str
  pictures: bool

  def reset(self, seed: int | Sequence[int]) -> Any:
    """Begins the episode that the seed names."""

  def step(self, action: Float[np.ndarray, "A"]) -> tuple[Any, bool, bool]:
    """Moves for one control step: the observation, whether the episode is over, and whether it succeeded."""

  def expert(self) -> Float[np.ndarray, "A"]:
    """The next action of its script."""


ENVIRONMENTS: dict[str, Callable[[int], Scripted]] = {  # each takes the size of the picture, pixels
  **{f"metaworld:{task}": functools.partial(MetaWorld, task) for task in INSTRUCTIONS},
  "fetch:pick-place": FetchPickPlace,
  **{f"libero:{suite}/{task}": functools.partial(Libero, suite, task) for suite in HORIZONS for task in range(TASKS)},
}


def named(name: str) -> list[str]:
  """The environments that a name means: itself, or all of a robot or of a suite.

  Raises:
    KairosError: there are none.
  """
  found = [one for one in ENVIRONMENTS if name in (one, one.partition(":")[0], one.partition("/")[0])]
  if not found:
    groups = dict.fromkeys(one.partition("/")[0] for one in ENVIRONMENTS)
    raise KairosError(
      f"no environment {name!r}: {', '.join(groups)}, a part of them before the colon, or libero:SUITE/TASK"
    )
  return found
