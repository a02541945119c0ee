"""CueReach: touch the ball that has the color of the bar. With the cue hidden it is a test of memory.

A three-slide arm, a red and a blue ball, and a bar that is red or blue: always (cue "visible") or only in the first
CUE_FRAMES frames (cue "hidden"), gray afterwards. Touching either ball, or HORIZON frames, ends the episode.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32

from data_pipelines.simulate.action import checked
from data_pipelines.simulate.observation import Observation
from data_pipelines.simulate.scene import COLORS
from data_pipelines.simulate.tabletop import ARM_COLOR, BALLS, STEP, Tabletop, arm
from kairos_jax.errors import KairosError

HORIZON = 60  # frames, at 10 Hz
CUE_FRAMES = 4
_HZ = 10.0  # frames a second
INSTRUCTION = "touch the ball that has the color of the bar"

Cue = Literal["visible", "hidden"]


@dataclasses.dataclass(frozen=True)
class Body:
  """What one robot differs in from another: how it looks, who looks at it, and what its commands move.

  Attributes:
    color: its name, for captions.
    effector: MJCF, see `tabletop.arm`.
    camera: the scene's, by which the observations name it.
    axes: the axis (0 to 2) that each of its three commands moves.
  """

  color: str
  effector: str
  camera: Literal["front", "side"]
  axes: tuple[int, int, int]


BODIES = {  # by embodiment
  "slide_arm": Body("yellow", arm(ARM_COLOR, (0.93, 0.93, 0.93)), "front", (0, 1, 2)),
  "turned_arm": Body("green", arm(COLORS["green"], (0.15, 0.15, 0.15)), "side", (1, 0, 2)),
}


class CueReach:
  """The environment. An action is a tip displacement [3] in [-1, 1], in units of 6 cm a frame, in the robot's order.

  With `speed` the balls roll about: what a robot knows of them is soon old. With `hold` a brake keeps the arm in its
  place for so many frames after the cue, while all else goes on.

  Attributes:
    embodiment: name of the robot, see data_pipelines/embodiments.
    instruction: what to do; it never names the color.
    license: of what it shows.
    pictures: whether observations have any.
    goal: the index into BALLS of the ball to touch.
    touched: names of the balls touched so far, in order.
    hold: frames; it may be changed before a reset.
  """

  instruction, license, pictures = INSTRUCTION, "Apache-2.0", True

  def __init__(self, size: int = 48, cue: Cue = "visible", robot: str = "slide_arm", speed: float = 0.0):
    """Compiles the scene once; `cue` may be changed before a reset, `robot` is one of BODIES.

    Args:
      size: of the picture, pixels.
      cue: how long the bar has its color.
      robot: which arm.
      speed: of the balls, m/s; below 0.6, which is the arm's.

    Raises:
      KairosError: unknown cue mode or robot, a speed or a size out of range, or no OpenGL.
    """
    if cue not in ("visible", "hidden"):
      raise KairosError(f"unknown cue mode {cue!r}: visible or hidden")
    if robot not in BODIES:
      raise KairosError(f"no robot {robot!r} reaches for balls: {', '.join(BODIES)}")
    if not 0 <= speed < STEP * _HZ:
      raise KairosError(f"speed is {speed}; it must be 0 to below {STEP * _HZ:g} m/s")
    self.cue, self.hold, self._speed = cue, 0, speed
    self.embodiment, self.body = robot, BODIES[robot]
    self._axes = np.array(self.body.axes)  # a swap, so that it is its own inverse
    self.table = Tabletop(self.body.effector, size, self.body.camera)
    self.goal = 0
    self.frame = 0
    self.touched: list[str] = []
    self._rng = np.random.default_rng(0)

  def reset(self, seed: int | Sequence[int], goal: int | None = None) -> Observation:
    """Starts the episode that `seed` names: ball positions, goal and start are drawn from it.

    Args:
      seed: of everything.
      goal: in the place of the one drawn: the same scene with the other color.
    """
    rng = np.random.default_rng(seed)
    self.table.scatter(rng)
    drawn = int(rng.integers(2))
    self.goal = drawn if goal is None else goal
    self.table.place_tip(rng.uniform(-0.06, 0.06, 3))
    self._rng = rng
    if self._speed:
      self.table.headings = rng.uniform(0, 2 * np.pi, 2)
    self.frame, self.touched = 0, []
    return self._observe()

  def step(self, action: Float[np.ndarray, "3"]) -> tuple[Observation, bool, bool]:
    """Moves for one frame.

    Returns:
      The observation, whether the episode is over (a ball was touched, or time is up), and whether it is a success
      (the right ball was touched first). Recording may go on after the end.

    Raises:
      KairosError: the action is not three finite numbers.
    """
    action = checked(action, 3)
    if self._speed:
      self.table.move_balls(self._rng, self._speed / _HZ)
    if not self.hold or self.frame >= CUE_FRAMES + self.hold:
      self.table.drive(action[self._axes])
    self.frame += 1
    self.touched += [ball for ball in self.table.touching() if ball not in self.touched]
    done = bool(self.touched) or self.frame >= HORIZON + self.hold
    return self._observe(), done, self.touched[:1] == [BALLS[self.goal]]

  def expert(self, misjudged: Float[np.ndarray, "3"] | float = 0.0) -> Float32[np.ndarray, "3"]:
    """The scripted expert's action: waits while a hidden cue is still on, travels high, then descends.

    A ball that rolls is chased down a cone. `misjudged` (m) is added to where the ball is taken to be.
    """
    if self.cue == "hidden" and self.frame < CUE_FRAMES:
      return np.zeros(3, np.float32)
    return self.toward(self.table.balls[self.goal] + misjudged)

  def toward(self, target: Float[np.ndarray, "3"]) -> Float32[np.ndarray, "3"]:
    """The action that brings the tip to a place (m), high above the balls on the way."""
    to = self.table.chase if self._speed else self.table.reach
    return to(target)[self._axes].astype(np.float32)

  def _observe(self) -> Observation:
    cue_is_on = self.cue == "visible" or self.frame < CUE_FRAMES
    self.table.show_bar(BALLS[self.goal] if cue_is_on else "gray")
    state = self.table.tip.astype(np.float32)
    return Observation({self.body.camera: self.table.render()} if self.pictures else {}, state)
