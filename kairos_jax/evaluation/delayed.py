"""Success of a model on DelayedCueReach against the delay: its streams run through the wait without a reset."""

import dataclasses
from collections.abc import Callable, Sequence

from data_pipelines.simulate.delayed_cue_reach import DelayedCueReach
from kairos_jax import seeds as seeds_lib
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.closed_loop import run_episodes
from kairos_jax.evaluation.intervals import Interval, wilson
from kairos_jax.evaluation.policies import ModelPolicy
from kairos_jax.interfaces import Policy
from kairos_jax.runtime import WorldModel
from kairos_jax.runtime.slots import bucket

SLOTS = 32  # episodes at once


@dataclasses.dataclass(frozen=True)
class Task:
  """Which DelayedCueReach is run, see there."""

  colors: int = 4
  distract: bool = False
  swap: bool = False


def episode_seeds(episodes: int, seed: int = 0) -> list[int]:
  """Names of the episodes, the same for every model and delay, and of no training data."""
  return [seeds_lib.derive(seed, "evaluation", "delayed_cue_reach", episode) for episode in range(episodes)]


def by_delay(
  policy: Policy, environments: Sequence[DelayedCueReach], delays: Sequence[int], episodes: int, seed: int = 0
) -> dict[int, Interval]:
  """The share of successes at each delay (frames), each over the same scenes and colors.

  Raises:
    KairosError: no episodes, or no delay.
  """
  if episodes < 1 or not delays:
    raise KairosError(f"{episodes} episodes at the delays {list(delays)} asked for; at least 1 of each")
  found = {}
  for delay in delays:
    for environment in environments:
      environment.wait = delay
    ended = run_episodes(environments, episode_seeds(episodes, seed), policy)
    found[delay] = wilson(sum(episode.success for episode in ended), episodes)
  return found


def success(
  model: WorldModel,
  delays: Sequence[int],
  episodes: int,
  task: Task = Task(),
  *,
  seed: int = 0,
  wrapped: Callable[[Policy], Policy] = lambda policy: policy,
) -> dict[int, Interval]:
  """The model's share of successes at each delay.

  Args:
    model: drives the slide arm, has a memory of constant size.
    delays: frames.
    episodes: for each delay.
    task: which it is.
    seed: of the episodes.
    wrapped: makes another policy of the model's, such as `BlindPolicy`.

  Raises:
    KairosError: as `by_delay` and `ModelPolicy`.
  """
  slots = bucket(min(SLOTS, episodes))
  environments = [
    DelayedCueReach(model.saved.frame_size[0], task.colors, distract=task.distract, swap=task.swap)
    for _ in range(slots)
  ]
  policy = ModelPolicy(model, [environment.instruction for environment in environments], "slide_arm")
  return by_delay(wrapped(policy), environments, delays, episodes, seed)
