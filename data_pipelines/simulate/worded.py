"""Videos of an arm in which words decide: nothing but the caption says what it does, with which ball, and how."""

from typing import NamedTuple

import numpy as np

from data_pipelines.records import Clip
from data_pipelines.simulate.cue_reach import BODIES
from data_pipelines.simulate.filming import simulated_clip
from data_pipelines.simulate.tabletop import BALLS, REACH, Tabletop

FRAMES = 49
_HOVER = 0.11  # m above a ball
_TEMPOS = {"slowly": 0.5, "quickly": 1.0}  # of a full command
_DEEDS = ("touches", "hovers above")
_ENDS = ("and stays there", "and goes up again")
_THERE, _WAIT = 0.02, 3  # m at which the arm is where it wants to be, and frames for which it stays at least


class Wish(NamedTuple):
  """What shall be seen, one word or phrase for each slot of the sentence."""

  tempo: str
  deed: str
  ball: str
  end: str

  @property
  def sentence(self) -> str:
    return SENTENCE.format(**self._asdict())


SENTENCE = "the arm {tempo} {deed} the {ball} ball {end}"
SLOTS: dict[str, tuple[str, ...]] = {"tempo": tuple(_TEMPOS), "deed": _DEEDS, "ball": BALLS, "end": _ENDS}


class Worded:
  """Films the slide arm beside a bar that stays gray."""

  def __init__(self, size: int):
    self._table = Tabletop(BODIES["slide_arm"].effector, size)

  def clip(self, rng: np.random.Generator) -> Clip:
    """The clip that `rng` draws: FRAMES frames, no states, no actions."""
    scene = int(rng.integers(2**63))
    wish = Wish(*(words[rng.integers(len(words))] for words in SLOTS.values()))
    caption = wish.sentence
    return simulated_clip(
      self.film(scene, wish), source="worded", embodiment="none", caption=caption, instruction=caption
    )

  def film(self, scene: int, wish: Wish) -> list[np.ndarray]:
    """What is seen where a wish comes true in the scene that a seed names."""
    rng, table = np.random.default_rng(scene), self._table
    table.scatter(rng)
    table.place_tip(rng.uniform(-0.06, 0.06, 3))
    table.show_bar("gray")
    goal = table.balls[BALLS.index(wish.ball)] + np.array([0, 0, _HOVER if wish.deed == _DEEDS[1] else 0.0])
    frames, there = list[np.ndarray](), 0
    while len(frames) < FRAMES:
      frames.append(table.render())
      target = goal
      if there >= _WAIT and wish.end == _ENDS[1]:
        target = np.array([*goal[:2], REACH[1, 2]])
      else:
        there += np.linalg.norm(table.tip - goal) < _THERE
      table.drive(_TEMPOS[wish.tempo] * table.reach(target))
    return frames
