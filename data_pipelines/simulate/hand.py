"""Stage II: a human hand at the robot's table. Another body, the same tasks, and no action labels.

The hand touches the ball the bar names, touches one ball then the other, or hovers from one to the other.
"""

import dataclasses
from typing import Literal

import numpy as np

from data_pipelines.records import Clip
from data_pipelines.simulate.cue_reach import CUE_FRAMES, INSTRUCTION
from data_pipelines.simulate.filming import simulated_clip
from data_pipelines.simulate.tabletop import BALLS, HAND, Tabletop

FRAMES = 33
_SKIN = ((0.96, 0.78, 0.66), (0.87, 0.66, 0.52), (0.68, 0.46, 0.33), (0.48, 0.31, 0.22))
_SLEEVE = ((0.85, 0.85, 0.88), (0.20, 0.55, 0.50), (0.45, 0.38, 0.60))


@dataclasses.dataclass(frozen=True)
class _Task:
  """What a hand does; `rise` is how far above a ball it stays, m."""

  caption: str
  instruction: str
  goals: int
  bar: Literal["always", "at first", "never"]
  tempo: tuple[float, float]
  rise: float = 0.0


_TASKS = (
  _Task("the bar is {first}; a hand moves {side} and touches the {first} ball", INSTRUCTION, 1, "always", (0.6, 1)),
  _Task(
    "the bar is {first} for a moment, then gray; a hand moves {side} and touches the {first} ball",
    INSTRUCTION,
    1,
    "at first",
    (0.6, 1),
  ),
  _Task(
    "a hand moves {side} and touches the {first} ball, then the {second} ball; the bar shows which is next",
    "touch the {first} ball, then the {second} ball",
    2,
    "always",
    (0.9, 1),
  ),
  _Task(
    "the bar is gray; a hand moves {side}, hovers above the {first} ball, then above the {second} ball",
    "hover above the {first} ball, then above the {second} ball",
    2,
    "never",
    (0.8, 1),
    rise=0.17,
  ),
)
_SHARES = (0.3, 0.3, 0.2, 0.2)


class Hand:
  """Films hands."""

  def __init__(self, size: int):
    self._table = Tabletop(HAND, size)

  def clip(self, rng: np.random.Generator) -> Clip:
    """The clip that `rng` draws: 33 frames, no states, no actions. One that does not go as told is drawn again."""
    while (clip := self._attempt(rng)) is None:
      pass
    return clip

  def _attempt(self, rng: np.random.Generator) -> Clip | None:
    table = self._table
    self._dress(rng)
    table.scatter(rng)
    table.place_tip(rng.uniform(-0.06, 0.06, 3))
    task = _TASKS[rng.choice(len(_TASKS), p=_SHARES)]
    first, second = (int(i) for i in rng.permutation(2))
    tempo = rng.uniform(*task.tempo)
    side = "left" if table.balls[first, 0] < table.tip[0] else "right"

    goals = [first, second][: task.goals]
    frames: list[np.ndarray] = []
    touched: list[str] = []
    for t in range(FRAMES):
      shown = task.bar == "always" or (task.bar == "at first" and t < CUE_FRAMES)
      table.show_bar(BALLS[goals[0]] if shown else "gray")
      frames.append(table.render())
      target = table.balls[goals[0]] + task.rise * np.array([0, 0, 1])
      waiting = task.bar == "at first" and t < CUE_FRAMES
      table.drive(np.zeros(3) if waiting else tempo * table.reach(target))
      touched += [ball for ball in table.touching() if ball not in touched]
      if len(goals) > 1 and np.linalg.norm(target - table.tip) < 0.03:
        goals.pop(0)
    if touched != ([] if task.rise else [BALLS[first], BALLS[second]][: task.goals]):
      return None

    words = dict(side=side, first=BALLS[first], second=BALLS[second])
    return simulated_clip(
      frames,
      source="hand",
      embodiment="hand",
      caption=task.caption.format(**words),
      instruction=task.instruction.format(**words),
    )

  def _dress(self, rng: np.random.Generator) -> None:
    skin, sleeve = _SKIN[rng.integers(len(_SKIN))], _SLEEVE[rng.integers(len(_SLEEVE))]
    for i in range(5):
      self._table.paint(f"skin{i}", skin)
    self._table.paint("sleeve", sleeve)
