"""DelayedCueReach: touch the ball of a color that was shown long ago. A test of memory of known length.

The bar shows a color in the first CUE_FRAMES frames and is gray for `delay` frames after that. Then it turns white, and
GO_FRAMES later the brake that has held the arm until then is released: nothing that the arm does can remember for it.
The balls lie on an ellipse, each color always in the same place but for a jitter, so that the color is all there is to
know. The arm chooses the ball that it touches first, or the nearest one when time is up.

So every policy that does not know the color succeeds in 1 / colors of the episodes, whatever it does: `floors`.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from data_pipelines.simulate.action import checked
from data_pipelines.simulate.cue_reach import BODIES, INSTRUCTION
from data_pipelines.simulate.observation import Observation
from data_pipelines.simulate.scene import COLORS
from data_pipelines.simulate.tabletop import Tabletop
from kairos_jax.errors import KairosError

# The first m of these are the colors of m balls; white and gray are the bar's own.
CUES = {name: COLORS[name] for name in ("red", "blue", "green", "yellow", "orange", "purple")} | {
  "cyan": (0.10, 0.80, 0.85),
  "pink": (0.98, 0.55, 0.75),
}
ALLOWED = (2, 4, 8)  # colors
CUE_FRAMES = 5  # at 10 Hz; with the first frame, two latents of a codec that puts four frames in one
GO_FRAMES = 4
REACH_FRAMES = 28  # after the brake is released
LONGEST = 96  # frames of delay that `reset` draws at most
_STEP = 4  # frames: delays are whole multiples of it
_SWAP = (4, 24)  # frames between the first cue and the second: least and most
_PLACES = np.array([0.27, 0.19])  # m, half axes of the ellipse
_JITTER = 0.02  # m


def floors(colors: int) -> dict[str, float]:
  """What policies without the color reach, in closed form.

  The color is uniform and independent of all that they know, and every episode ends with a choice. So one that guesses
  a color, one that is blind and one that moves at random are right in 1 / colors alike. With `swap`, a policy that
  keeps the first color is always wrong, for the second is another one.
  """
  return {"guess": 1 / colors, "blind": 1 / colors, "random": 1 / colors, "first": 0.0}


class DelayedCueReach:
  """The environment; actions, observations and instruction are those of CueReach.

  Attributes:
    embodiment, instruction: see `CueReach`.
    colors: names of the balls' colors.
    wait: the delay of every episode, frames; None draws it. It may be changed before a reset.
    goal: index of the color that counts: the last that was shown.
    delay: frames from the end of the cue that counts to the go signal.
    frame: that was observed last.
    choice: name of the ball that was chosen, None before.
  """

  embodiment, instruction = "slide_arm", INSTRUCTION

  def __init__(
    self, size: int = 48, colors: int = 4, *, delay: int | None = None, distract: bool = False, swap: bool = False
  ):
    """Compiles the scene once.

    Args:
      size: of the picture, pixels.
      colors: how many balls there are, one of ALLOWED.
      delay: frames; None draws a multiple of four, 0 to LONGEST, for each episode.
      distract: the floor and the arm change their colors every four frames while the arm waits.
      swap: a second color is shown after the first and takes its place.

    Raises:
      KairosError: another number of colors, a negative delay, a size out of range, or no OpenGL.
    """
    if colors not in ALLOWED:
      raise KairosError(f"colors is {colors}; allowed: {', '.join(map(str, ALLOWED))}")
    if delay is not None and delay < 0:
      raise KairosError(f"delay is {delay} frames; allowed: 0 or more, or None")
    self.colors = tuple(CUES)[:colors]
    self.wait, self._distract, self._swap = delay, distract, swap
    body = BODIES[self.embodiment]
    self.table = Tabletop(body.effector, size, body.camera, {name: CUES[name] for name in self.colors})
    self._camera, self._painted = body.camera, {g: self.table.model.geom(g).rgba.copy() for g in ("floor", "arm0")}
    self.goal = self.delay = self.frame = 0
    self.choice: str | None = None
    self._cues: list[tuple[int, int, str]] = []  # first frame, frame after the last, color
    self._scenery = np.zeros((0, 2, 3))

  def reset(self, seed: int | Sequence[int], goal: int | None = None, delay: int | None = None) -> Observation:
    """Starts the episode that `seed` names.

    Args:
      seed: of everything.
      goal, delay: in the place of those drawn: the same scene with another color, or another delay.
    """
    rng = np.random.default_rng(seed)
    count = len(self.colors)
    drawn, other, between = rng.integers(count), rng.integers(1, count), _STEP * rng.integers(_SWAP[0] // _STEP, 7)
    self.goal = int(drawn) if goal is None else goal
    longest = LONGEST // _STEP
    waits = _STEP * int(rng.integers(longest + 1))
    self.delay = next(wait for wait in (delay, self.wait, waits) if wait is not None)
    self._cues = [(0, CUE_FRAMES, self.colors[self.goal])]
    if self._swap:
      first = self.colors[(self.goal + int(other)) % count]
      begin = CUE_FRAMES + int(between)
      self._cues = [(0, CUE_FRAMES, first), (begin, begin + _STEP, self.colors[self.goal])]
    turn = 2 * np.pi * np.arange(count) / count
    places = np.stack([-np.cos(turn) * _PLACES[0], np.sin(turn) * _PLACES[1], np.full(count, 0.08)], axis=1)
    self.table.reset()
    self.table.lay(places + rng.uniform(-_JITTER, _JITTER, (count, 3)))
    self.table.place_tip(rng.uniform(-_JITTER, _JITTER, 3))
    self._scenery = rng.uniform(0.1, 0.9, (self.end // _STEP + 1, len(self._painted), 3))
    self.frame, self.choice = 0, None
    return self._observe()

  @property
  def go(self) -> int:
    """The first frame in which the bar is white."""
    return self._cues[-1][1] + self.delay

  @property
  def end(self) -> int:
    """The frame in which time is up."""
    return self.go + GO_FRAMES + REACH_FRAMES

  def step(self, action: Float[np.ndarray, "3"]) -> tuple[Observation, bool, bool]:
    """Moves for one frame, if the brake is released.

    Returns:
      The observation, whether the episode is over (a ball was touched, or time is up), and whether it is a success.

    Raises:
      KairosError: the action is not three finite numbers.
    """
    action = checked(action, 3)
    if released := self.frame >= self.go + GO_FRAMES - 1:
      self.table.drive(action)
    self.frame += 1
    touching = self.table.touching() if released else []
    if self.choice is None and (touching or self.frame >= self.end):
      nearest = int(np.linalg.norm(self.table.balls - self.table.tip, axis=1).argmin())
      self.choice = self.colors[nearest]
    return self._observe(), self.choice is not None, self.choice == self.colors[self.goal]

  def skip(self) -> Observation:
    """Goes to the frame in which the brake is released: until then nothing moves, whatever the arm does."""
    self.frame = max(self.frame, self.go + GO_FRAMES - 1)
    return self._observe()

  def expert(self) -> Float32[np.ndarray, "3"]:
    """The scripted expert's action: waits for the go signal, travels high, then descends."""
    if self.frame < self.go:
      return np.zeros(3, np.float32)
    return self.table.reach(self.table.balls[self.goal]).astype(np.float32)

  def _observe(self) -> Observation:
    shown = [color for begin, end, color in self._cues if begin <= self.frame < end]
    waits = self.frame < self.go
    self.table.paint("bar", CUES[shown[0]] if shown else COLORS["gray" if waits else "white"])
    for i, (geom, usual) in enumerate(self._painted.items()):
      changed = self._distract and waits and not shown
      self.table.paint(geom, tuple(self._scenery[self.frame // _STEP, i] if changed else usual[:3]))
    return Observation({self._camera: self.table.render()}, self.table.tip.astype(np.float32))
