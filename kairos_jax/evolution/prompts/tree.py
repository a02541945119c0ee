"""What was tried for one prompt, and what came of it."""

import dataclasses
from collections.abc import Sequence

import numpy as np

PARTS = ("physics", "task", "quality")  # of a critique


@dataclasses.dataclass(frozen=True)
class Critique:
  """Of the videos of one prompt, each part from 0 to 1.

  Attributes:
    physics: what is there stays there.
    task: the share of what was asked for that came true.
    quality: the picture is as sharp as what was seen.
    wrong: what of the task did not come true, most often first.
  """

  physics: float
  task: float
  quality: float
  wrong: tuple[str, ...] = ()

  @property
  def reward(self) -> float:
    """What the loop climbs."""
    return (self.physics + self.task + self.quality) / 3


@dataclasses.dataclass(frozen=True)
class Node:
  """One prompt that was tried.

  Attributes:
    prompt: its words.
    parent: place in the tree of the prompt that it was rewritten from; None: these are the user's words.
    critique: of all its videos.
    rewards: of each of them.
    kept: whether it was better than all before.
  """

  prompt: str
  parent: int | None
  critique: Critique
  rewards: tuple[float, ...]
  kept: bool


Tree = list[Node]


def best(tree: Sequence[Node]) -> int:
  """The place of the prompt that was kept last."""
  return max(place for place, node in enumerate(tree) if node.kept)


def grown(tree: Sequence[Node], prompt: str, parent: int | None, critiques: Sequence[Critique]) -> Tree:
  """The tree with one more prompt, whose videos got these critiques; it is kept if its mean reward is the highest."""
  wrong: dict[str, int] = {}
  for critique in critiques:
    for name in critique.wrong:
      wrong[name] = wrong.get(name, 0) + 1
  physics, task, quality = (float(np.mean([getattr(one, part) for one in critiques])) for part in PARTS)
  critique = Critique(physics, task, quality, tuple(sorted(wrong, key=lambda name: -wrong[name])))
  kept = not tree or critique.reward > tree[best(tree)].critique.reward
  return [*tree, Node(prompt, parent, critique, tuple(one.reward for one in critiques), kept)]
