"""A script that puts a bowl on a plate, for LIBERO's spatial suite: it knows where both are."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

_RIM = np.array([0.0, 0.045, 0.03])  # m, from a bowl's middle to where the fingers close on its rim
_ABOVE, _LIFTED, _LET_GO = 0.1, 0.25, 0.05  # m
_GAIN = 12.0  # of a full command, a meter
_OPEN, _CLOSE = -1.0, 1.0


class _Stage(NamedTuple):
  """One leg of the way.

  Attributes:
    grip: what the fingers do.
    near: m from the target at which the next one begins; 0: none, it begins when time is up.
    longest: control steps after which it begins in any case.
  """

  grip: float
  near: float
  longest: int


_STAGES = (
  _Stage(_OPEN, 0.015, 1000),  # over the bowl's rim
  _Stage(_OPEN, 0.012, 40),  # down to it
  _Stage(_CLOSE, 0.0, 10),  # closes
  _Stage(_CLOSE, 0.03, 1000),  # up
  _Stage(_CLOSE, 0.02, 1000),  # over the plate
  _Stage(_CLOSE, 0.02, 40),  # down
  _Stage(_OPEN, 0.0, 1000),  # lets go
)


class BowlOnPlate:
  """The script of one episode."""

  def __init__(self, bowl: Float[np.ndarray, "3"]):
    """`bowl` is where it lies at first, m."""
    self._height, self._stage, self._steps = float(bowl[2]), 0, 0

  def action(
    self, hand: Float[np.ndarray, "3"], bowl: Float[np.ndarray, "3"], plate: Float[np.ndarray, "3"]
  ) -> Float32[np.ndarray, "7"]:
    """What to do, from where the hand, the bowl and the plate are (m, in the world's frame)."""
    stage = _STAGES[self._stage]
    way = self._target(hand, bowl, plate) - hand
    self._steps += 1
    if self._stage < len(_STAGES) - 1 and (np.linalg.norm(way) < stage.near or self._steps >= stage.longest):
      self._stage, self._steps = self._stage + 1, 0
    return np.array([*np.clip(_GAIN * way, -1, 1), 0, 0, 0, stage.grip], np.float32)

  def _target(
    self, hand: Float[np.ndarray, "3"], bowl: Float[np.ndarray, "3"], plate: Float[np.ndarray, "3"]
  ) -> Float[np.ndarray, "3"]:
    lifted = self._height + _LIFTED
    over_plate = plate + hand - bowl  # so that the bowl, as it is held, comes over it
    match self._stage:
      case 0:
        return bowl + _RIM + [0, 0, _ABOVE]
      case 1:
        return bowl + _RIM
      case 3:
        return np.array([hand[0], hand[1], lifted])
      case 4:
        return np.array([over_plate[0], over_plate[1], lifted])
      case 5:
        return np.array([over_plate[0], over_plate[1], plate[2] + _RIM[2] + _LET_GO])
      case _:
        return hand
