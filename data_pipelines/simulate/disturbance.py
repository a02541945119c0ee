"""What a robot executes beside what it is told, so that data shows how to recover."""

import numpy as np

_CORRELATION = 0.8  # from one step to the next


class Disturbance:
  """A random walk that returns to zero.

  Attributes:
    now: what is added to the action of this step.
  """

  def __init__(self, rng: np.random.Generator, scale: float, size: int):
    """Draws the first; `scale` is its standard deviation, in units of a full command, and `size` its dimensions."""
    self._rng, self._scale = rng, scale
    self.now = scale * rng.standard_normal(size)

  def advance(self) -> None:
    """Draws the next."""
    innovation = np.sqrt(1 - _CORRELATION**2) * self._scale * self._rng.standard_normal(len(self.now))
    self.now = _CORRELATION * self.now + innovation
