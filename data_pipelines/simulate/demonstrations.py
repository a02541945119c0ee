"""Episodes of simulated robots by their scripts, as labeled clips.

The label of every action is what the script commands. What is executed is disturbed in some episodes, but for the
fingers, which would let go.
"""

import numpy as np

from data_pipelines import embodiments
from data_pipelines.records import Clip
from data_pipelines.simulate.disturbance import Disturbance
from data_pipelines.simulate.environments import ENVIRONMENTS, Scripted, named
from data_pipelines.simulate.filming import simulated_clip

_DISTURBED_SHARE = 0.5
_DISTURBANCE = (0.2, 0.4)  # range of its standard deviation, in units of a full command
_FINGERS = 1  # the last numbers of an action, which are not disturbed


class Demonstrations:
  """Records a robot at all tasks of a name, each as often as any other."""

  def __init__(self, size: int, *, name: str, source: str):
    """Compiles every task once.

    Raises:
      KairosError: no such environment, a size out of range, the extra `robots` is not installed, or no OpenGL.
    """
    self._tasks = {task: ENVIRONMENTS[task](size) for task in named(name)}
    self._source = source

  def clip(self, rng: np.random.Generator) -> Clip:
    """The episode that `rng` draws, to its success; one that fails is drawn again."""
    task = list(self._tasks)[rng.integers(len(self._tasks))]
    while (clip := self._attempt(task, self._tasks[task], rng)) is None:
      pass
    return clip

  def _attempt(self, task: str, env: Scripted, rng: np.random.Generator) -> Clip | None:
    scale = rng.uniform(*_DISTURBANCE) if rng.random() < _DISTURBED_SHARE else 0.0
    # Evaluation derives its episodes' seeds by name: to draw one of them here takes luck beyond measure.
    seed = int(rng.integers(2**32, 2**63))
    observations, actions, over, success = [env.reset(seed)], [], False, False
    moved = len(embodiments.get(env.embodiment).action) - _FINGERS
    disturbance = Disturbance(rng, scale, moved)
    while not over:
      actions.append(env.expert())
      executed = np.concatenate([actions[-1][:moved] + disturbance.now, actions[-1][moved:]])
      observation, over, success = env.step(executed)
      observations.append(observation)
      disturbance.advance()
    if not success:
      return None
    (camera,) = observations[0].images
    return simulated_clip(
      [seen.images[camera] for seen in observations],
      source=self._source,
      embodiment=env.embodiment,
      caption=f"a robot arm at {task}: {env.instruction}",
      instruction=env.instruction,
      states=[seen.state for seen in observations],
      actions=actions,
      camera=camera,
      hz=embodiments.get(env.embodiment).control_hz,
      provenance={"environment": task, "seed": seed},
    )
