"""The closed loop: many episodes at once, each in a slot of its own and at its own moment, driven by one policy."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines import embodiments
from kairos_jax import seeds as seeds_lib
from kairos_jax.errors import KairosError
from kairos_jax.interfaces import Environment, Observation, Policy


@dataclasses.dataclass(frozen=True)
class Episode:
  """One finished episode.

  Attributes:
    seed: names it.
    embodiment: name of the robot.
    success: whether the task was done.
    observations: what was seen, from the reset to the end.
    actions: that were taken, in the robot's units.
  """

  seed: int
  embodiment: str
  success: bool
  observations: Sequence[Observation]
  actions: Sequence[Float[np.ndarray, "A"]]

  @property
  def steps(self) -> int:
    """Actions that were taken."""
    return len(self.observations) - 1

  def video(self) -> UInt8[np.ndarray, "T H W 3"]:
    """What a model sees of it."""
    return np.stack([embodiments.picture(self.embodiment, seen.images) for seen in self.observations])


@dataclasses.dataclass
class _Running:
  """An episode at work: all that was observed, how much of it the policy knows, and how often it was asked."""

  seed: int
  observations: list[Observation]
  actions: list[Float[np.ndarray, "A"]] = dataclasses.field(default_factory=list)
  told: int = 0
  calls: int = 0


def run_episodes(environments: Sequence[Environment], seeds: Iterable[int], policy: Policy) -> Iterator[Episode]:
  """Runs an episode for each seed and yields each as it ends.

  An environment is a slot of the policy. When its episode is over the next seed's begins there, so episodes are at
  different moments. The policy is asked at once for all that have observed equally much since their last call. A call's
  noise comes from its episode's seed and its number in the episode, so it does not depend on who runs beside it.

  Args:
    environments: slot i of the policy drives environment i.
    seeds: of the episodes, in the order in which they begin.
    policy: gives actions in the robot's units.

  Raises:
    KairosError: there is no environment.
  """
  if not environments:
    raise KairosError("closed loop: there is no environment; at least 1 is needed")
  waiting, running = iter(seeds), dict[int, _Running]()
  while True:
    begun = []
    for slot, environment in enumerate(environments):
      if slot not in running and (seed := next(waiting, None)) is not None:
        running[slot] = _Running(seed, [environment.reset(seed)])
        begun.append(slot)
    if not running:
      return
    if begun:
      policy.reset(begun)
    for slots in _alike(running):
      for slot, actions in zip(slots, _ask(policy, slots, running), strict=True):
        episode = _advance(environments[slot], running[slot], actions)
        if episode is not None:
          del running[slot]
          yield episode


def _alike(running: dict[int, _Running]) -> list[list[int]]:
  """Slots in groups that have equally many observations to tell."""
  groups: dict[int, list[int]] = {}
  for slot, episode in sorted(running.items()):
    groups.setdefault(len(episode.observations) - episode.told, []).append(slot)
  return list(groups.values())


def _ask(policy: Policy, slots: list[int], running: dict[int, _Running]) -> Float[np.ndarray, "S n A"]:
  episodes = [running[slot] for slot in slots]
  fresh = [episode.observations[episode.told :] for episode in episodes]
  seeds = [seeds_lib.derive(episode.seed, "policy", episode.calls) for episode in episodes]
  for episode in episodes:
    episode.told, episode.calls = len(episode.observations), episode.calls + 1
  return policy.act(slots, fresh, seeds)


def _advance(environment: Environment, running: _Running, actions: Float[np.ndarray, "n A"]) -> Episode | None:
  """Takes the actions until the episode is over; the finished episode, or None."""
  for action in actions:
    observation, over, success = environment.step(action)
    running.observations.append(observation)
    running.actions.append(action)
    if over:
      return Episode(running.seed, environment.embodiment, bool(success), running.observations, running.actions)
  return None
