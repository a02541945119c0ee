"""Episodes of simulated robots by their scripts, as labeled clips.

The label of every action is what the script commands. What is executed is disturbed in half of the episodes: where the
hand goes, that is, for disturbed fingers would let go.
"""

from typing import NamedTuple

import numpy as np

from data_pipelines.records import Clip
from data_pipelines.simulate.disturbance import Disturbance
from data_pipelines.simulate.environments import ENVIRONMENTS, Scripted, named
from data_pipelines.simulate.filming import episode_clip
from data_pipelines.simulate.observation import Observation
from kairos_jax.errors import KairosError

_DISTURBED_SHARE = 0.5
_DISTURBANCE = (0.2, 0.4)  # range of its standard deviation, in units of a full command
_MOVES = 3  # the first numbers of an action, which displace the hand
_ATTEMPTS = 20


class _Episode(NamedTuple):
  seed: int
  observations: list[Observation]
  actions: list[np.ndarray]
  executed: list[np.ndarray] | None  # where it differs from the actions


class Demonstrations:
  """Records a robot at all tasks of a name, each as often as any other.

  With `rehearse` an episode runs without pictures first, and those that succeed run again: for scripts
  that fail often where pictures are what takes long.
  """

  def __init__(self, size: int, *, name: str, source: str, rehearse: bool = False):
    """Compiles every task once.

    Raises:
      KairosError: no such environment, a size out of range, an extra is not installed, or no OpenGL.
    """
    self._tasks = {task: ENVIRONMENTS[task](size) for task in named(name)}
    self._source, self._rehearse = source, rehearse

  def clip(self, rng: np.random.Generator) -> Clip:
    """The episode that `rng` draws, to its success; one that fails is drawn again.

    Raises:
      KairosError: the task has no script, or it fails again and again.
    """
    task = list(self._tasks)[rng.integers(len(self._tasks))]
    env = self._tasks[task]
    for _ in range(_ATTEMPTS):
      drawn, env.pictures = rng.bit_generator.state, not self._rehearse
      episode = self._attempt(env, rng)
      if episode and self._rehearse:
        rng.bit_generator.state, env.pictures = drawn, True
        episode = self._attempt(env, rng)
      if episode:
        return episode_clip(
          [seen.images for seen in episode.observations],
          [seen.state for seen in episode.observations],
          episode.actions,
          source=self._source,
          embodiment=env.embodiment,
          license=env.license,
          caption=f"a robot arm at {task}: {env.instruction}",
          instruction=env.instruction,
          provenance={"environment": task, "seed": episode.seed},
          executed=episode.executed,
        )
    raise KairosError(f"the script of {task} failed in {_ATTEMPTS} episodes")

  def _attempt(self, env: Scripted, rng: np.random.Generator) -> _Episode | None:
    scale = rng.uniform(*_DISTURBANCE) if rng.random() < _DISTURBED_SHARE else 0.0
    # Evaluation derives its episodes' seeds by name: to draw one of them here takes luck beyond measure.
    seed = int(rng.integers(2**32, 2**63))
    observations, actions, executed, over, success = [env.reset(seed)], [], [], False, False
    disturbance = Disturbance(rng, scale, _MOVES)
    while not over:
      actions.append(env.expert())
      told = actions[-1].astype(np.float64)
      told[:_MOVES] += disturbance.now
      executed.append(np.clip(told, -1, 1))
      observation, over, success = env.step(executed[-1])
      observations.append(observation)
      disturbance.advance()
    if not success:
      return None
    return _Episode(seed, observations, actions, executed if scale else None)
