"""Wishes for the embedded simulator: what a user says, what shall be seen, and what of it came true."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_pipelines.simulate.worded import SENTENCE, SLOTS, Wish, Worded
from kairos_jax import seeds
from kairos_jax.evaluation import scene_scores
from kairos_jax.evaluation.foresight import arm
from kairos_jax.evaluation.scene_scores import Imagined
from kairos_jax.evolution.prompts.tree import Critique

_EVERY = [Wish(*words) for words in itertools.product(*SLOTS.values())]
_SAID = {  # how users say it, in words that the model never read
  "slowly": "without any haste",
  "quickly": "in a hurry",
  "touches": "pokes",
  "hovers above": "floats over",
  "red": "crimson",
  "blue": "navy",
  "and stays there": "then remains",
  "and goes up again": "then leaves",
}


class Problem(NamedTuple):
  """One user's wish in one scene.

  Attributes:
    said: the user's words.
    wish: what they mean.
    seen: the frames that the model is given.
    films: what is seen later, for every wish.
    arms: which of their pixels are the arm's.
  """

  said: str
  wish: Wish
  seen: UInt8[np.ndarray, "S H W 3"]
  films: UInt8[np.ndarray, "K T H W 3"]
  arms: Bool[np.ndarray, "K T H W"]

  @property
  def truth(self) -> UInt8[np.ndarray, "T H W 3"]:
    return self.films[_EVERY.index(self.wish)]


def problems(count: int, size: int, seen: int, frames: int, seed: int) -> list[Problem]:
  """Wishes in scenes that no dataset shows, `seen` frames and then `frames` that shall be imagined."""
  camera, found = Worded(size), []
  for number in range(count):
    rng = np.random.default_rng(seeds.derive(seed, "evaluation", "wishes", number))
    scene, wish = int(rng.integers(2**63)), _EVERY[rng.integers(len(_EVERY))]
    films = np.stack([np.stack(camera.film(scene, one)) for one in _EVERY])[:, : seen + frames]
    said = SENTENCE.format(**{name: _SAID[word] for name, word in zip(SLOTS, wish, strict=True)})
    found.append(Problem(said, wish, films[0, :seen], films[:, seen:], arm(films[:, seen:])))
  return found


def perceived(problem: Problem, video: UInt8[np.ndarray, "T H W 3"]) -> Wish:
  """The wish that came true: in its film the arm is most nearly where it is in the video."""
  apart = np.not_equal(problem.arms, arm(video)).mean(axis=(-3, -2, -1))
  return _EVERY[int(apart.argmin())]


def judged(problem: Problem, video: UInt8[np.ndarray, "T H W 3"]) -> Critique:
  """What the loop is told of one video."""
  one = Imagined(problem.seen, video, problem.truth)
  got = perceived(problem, video)
  wrong = tuple(name for name, want, have in zip(SLOTS, problem.wish, got, strict=True) if want != have)
  physics = (scene_scores.arm(one) + float(np.exp(scene_scores.balls(one)))) / 2
  return Critique(physics, 1 - len(wrong) / len(SLOTS), float(np.exp(scene_scores.quality(one))), wrong)


def unseen(problem: Problem, videos: UInt8[np.ndarray, "N T H W 3"]) -> Float[np.ndarray, "N"]:
  """What the loop is never told: how near each video is to the simulator's own of the wish, dB."""
  return np.array([scene_scores.truth(Imagined(problem.seen, video, problem.truth)) for video in videos])
