"""What a robot does wrong, so that data shows how to recover."""

import numpy as np

_CORRELATION = 0.8  # from one step to the next
_SHOVE, _SHOVE_STEPS = 2.0, (3, 8)  # its length, in units of a full command, and the range of how long it lasts


class Disturbance:
  """A random walk that returns to zero, and shoves that take a robot to where no expert goes.

  Attributes:
    now: what is added, in this step, to an action or to where something is taken to be.
  """

  def __init__(self, rng: np.random.Generator, scale: float, size: int, shoves: float = 0.0):
    """Draws the first.

    Args:
      rng: of all that follows.
      scale: standard deviation of the walk, in units of what it is added to.
      size: dimensions of that.
      shoves: chance that one begins in a step. It is stronger than any command, and of one direction while it lasts.
    """
    self._rng, self._scale, self._shoves = rng, scale, shoves
    self._shove, self._left = np.zeros(size), 0
    self._walk = self.now = scale * rng.standard_normal(size)

  def advance(self) -> None:
    """Draws the next."""
    innovation = np.sqrt(1 - _CORRELATION**2) * self._scale * self._rng.standard_normal(len(self.now))
    self._walk = _CORRELATION * self._walk + innovation
    if self._left:
      self._left -= 1
    elif self._shoves and self._rng.random() < self._shoves:
      direction = self._rng.standard_normal(len(self.now))
      self._shove = _SHOVE * direction / np.linalg.norm(direction)
      self._left = int(self._rng.integers(*_SHOVE_STEPS))
    self.now = self._walk + (self._shove if self._left else 0.0)
