"""Policies compared in closed loop on the same episodes of an environment, of seeds that no training uses."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from data_pipelines import embodiments
from data_pipelines.simulate.cue_reach import BODIES, Cue, CueReach
from data_pipelines.simulate.environments import ENVIRONMENTS, Scripted
from data_pipelines.simulate.generate import MOVING_SPEED
from kairos_jax import console, seeds
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.closed_loop import Episode, run_episodes
from kairos_jax.evaluation.intervals import Interval, wilson
from kairos_jax.evaluation.policies import BlindPolicy, ExpertPolicy, ModelPolicy, RandomPolicy
from kairos_jax.evaluation.record import EpisodeRecord, Kept
from kairos_jax.interfaces import Policy
from kairos_jax.interop import saved_model
from kairos_jax.runtime import WorldModel
from kairos_jax.runtime.slots import bucket

SLOTS, PACKAGED_SLOTS = 32, 8  # episodes at once: of CueReach, and of environments that take more room
CUE_REACH, MOVING = "cue_reach", "cue_reach:moving"
BALL_SPEEDS = {CUE_REACH: 0.0, MOVING: MOVING_SPEED}  # m/s, of the environments whose entries are all of those below
WITHOUT_MODEL = ("random", "expert")  # entries that need none
_SIZE, _STRIDE = 64, 4  # of a picture, pixels, and actions that random policies give at a time, where there is no model


class Entry(NamedTuple):
  """Who drives, how long the cue is visible, what a reader should know of it, and how long the arm is held after it."""

  policy: str
  cue: Cue
  note: str
  hold: int = 0


ENTRIES = {
  "model": Entry("model", "visible", "cue visible; pixels, state and instruction in, actions out, no video denoised"),
  "hidden": Entry("model", "hidden", "the cue is shown for 4 frames only: a test of memory"),
  "blind": Entry("blind", "visible", "images blanked: what is left is guessing"),
  "random": Entry("random", "visible", "uniform actions"),
  "expert": Entry("expert", "visible", "scripted, knows the answer"),
}
# The cue is shown for 4 frames, and the arm held for so many frames more: success against the delay.
HELD = {f"held{frames}": Entry("model", "hidden", f"held for {frames} frames", frames) for frames in (0, 8, 16, 32)}


class Score(NamedTuple):
  """How the episodes of an entry ended.

  Attributes:
    successes, episodes: how many.
    kept: of the episodes, how many had been run before.
    films: of the first episodes, as asked for.
  """

  successes: int
  episodes: int
  kept: int
  films: list[UInt8[np.ndarray, "_ H W 3"]]

  @property
  def rate(self) -> Interval:
    """The share of successes with its interval of 95 % over the episodes."""
    return wilson(self.successes, self.episodes)


def together(scores: Sequence[Score]) -> Score:
  """Those of several environments as one."""
  successes, episodes, kept = np.array([(score.successes, score.episodes, score.kept) for score in scores]).sum(axis=0)
  return Score(int(successes), int(episodes), int(kept), [])


def entries(env: str) -> list[str]:
  """Names of the entries that are usually compared in an environment; in CueReach there are also those of `HELD`."""
  return [name for name, entry in ENTRIES.items() if env in BALL_SPEEDS or entry.cue == "visible"]


def task_name(env: str, entry: Entry) -> str:
  """What a record calls the task of an entry in an environment."""
  return env + (f"/{entry.cue}" if env in BALL_SPEEDS else "") + (f"/held{entry.hold}" if entry.hold else "")


def episode_seeds(episodes: int, seed: int = 0, env: str = CUE_REACH) -> list[int]:
  """Names of the episodes that `seed` gives: the same for every entry and model, and of no training data.

  In LIBERO seed 0 gives the benchmark's own initial states, in their order.
  """
  if env.startswith("libero:") and seed == 0:
    return list(range(episodes))
  return [seeds.derive(seed, "evaluation", env, episode) for episode in range(episodes)]


def compare(
  model: WorldModel | None,
  names: Sequence[str],
  *,
  episodes: int,
  record: EpisodeRecord,
  env: str = CUE_REACH,
  seed: int = 0,
  film: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Score]:
  """Runs each named entry on the same episodes, and keeps each episode as it ends.

  What the record holds already is not run again; a line on the screen says so.

  Args:
    model: whose success is asked for; in CueReach it drives the first of its embodiments that is there. Without one,
      only the entries of `WITHOUT_MODEL` run.
    names: of `ENTRIES` and `HELD`.
    episodes: for each entry, at least 1.
    record: of finished episodes.
    env: the environment: one of BALL_SPEEDS, or of `environments.ENVIRONMENTS`.
    seed: of the episodes.
    film: by entry, so many first episodes are filmed; for this they are run again.

  Raises:
    KairosError: no episodes, an entry that the environment does not have or that needs a model, or a model that cannot
      act.
  """
  if episodes < 1:
    raise KairosError(f"{episodes} episodes asked for; at least 1")
  for name in names:
    if name not in entries(env) and not (name in HELD and env in BALL_SPEEDS):
      raise KairosError(f"no policy {name!r} in {env}; there are {', '.join(entries(env))}")
    if model is None and name not in WITHOUT_MODEL:
      raise KairosError(f"policy {name!r} needs a model; without one there are {', '.join(WITHOUT_MODEL)}")
  arena = Arena(model, env, episodes)
  name_of_model = "none" if model is None else saved_model.content_hash(model.saved)
  scores = {}
  for name in names:
    entry = (ENTRIES | HELD)[name]
    where = name_of_model, entry.policy, task_name(env, entry)  # the robot is in the model's hash
    every = episode_seeds(episodes, seed, env)
    filmed = every[: film.get(name, 0)]
    found = record.kept(*where)
    ended = {one: found[one] for one in every if one in found and one not in filmed}
    kept, films = len(ended), dict[int, UInt8[np.ndarray, "T H W 3"]]()
    if kept:
      rest = f"the other {episodes - kept} run now" if kept < episodes else "nothing is left to run"
      console.show(f"{name}: {kept} of {episodes} episodes are kept in {record.path}; {rest}")
    waiting = [one for one in every if one not in ended]
    with console.progress(name, episodes, done=kept) as bar:
      for episode in arena.play(entry, waiting):
        ended[episode.seed] = Kept(episode.success, episode.steps)
        record.add(*where, episode.seed, ended[episode.seed])
        if episode.seed in filmed:
          films[episode.seed] = episode.video()
        bar.update(len(ended), f"{sum(one.success for one in ended.values())} successes")
    successes = sum(one.success for one in ended.values())
    scores[name] = Score(successes, episodes, kept, [films[one] for one in filmed])
  return scores


class Arena:
  """Environments and policies, made when they are first needed and shared by all entries."""

  def __init__(self, model: WorldModel | None, env: str, episodes: int):
    # A batch that is not padded; of all episodes, so that what is left of them changes no number.
    self._slots = bucket(min(SLOTS if env in BALL_SPEEDS else PACKAGED_SLOTS, episodes))
    self._model, self._env = model, env
    if env in BALL_SPEEDS:
      driven = ["slide_arm"] if model is None else list(model.saved.embodiments)
      self._robot = next((robot for robot in driven if robot in BODIES), driven[0] if driven else "slide_arm")
      if self._robot not in BODIES:
        raise KairosError(f"the model drives {self._robot!r}, which the simulator does not have: {', '.join(BODIES)}")
    self._made: Sequence[Scripted] = []
    self._driver: ModelPolicy | None = None

  @property
  def environments(self) -> Sequence[Scripted]:
    """One for each slot."""
    if not self._made:
      self._made = [self._make() for _ in range(self._slots)]
    return self._made

  def play(self, entry: Entry, waiting: Sequence[int]) -> Iterator[Episode]:
    """The episodes of these seeds as they end."""
    if not waiting:
      return iter(())
    for environment in self.environments:
      if isinstance(environment, CueReach):
        environment.cue, environment.hold = entry.cue, entry.hold
    return run_episodes(self.environments, waiting, self._policy(entry.policy))

  def _make(self) -> Scripted:
    size = _SIZE if self._model is None else self._model.saved.frame_size[0]
    if self._env in BALL_SPEEDS:
      return CueReach(size, robot=self._robot, speed=BALL_SPEEDS[self._env])
    return ENVIRONMENTS[self._env](size)

  def _policy(self, kind: str) -> Policy:
    robot = self.environments[0].embodiment
    match kind:
      case "random":
        stride = _STRIDE if self._model is None else self._model.codec.time_stride
        return RandomPolicy(len(embodiments.get(robot).action), stride)
      case "expert":
        return ExpertPolicy(self.environments)
      case "blind":
        return BlindPolicy(self._policy("model"))
      case _:
        assert self._model is not None
        if self._driver is None:
          instructions = [environment.instruction for environment in self.environments]
          self._driver = ModelPolicy(self._model, instructions, robot)
        return self._driver
