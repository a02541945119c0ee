"""Episodes of DelayedCueReach by its expert. While the brake is on nothing is decided, and no action is labeled."""

import numpy as np

from data_pipelines.records import Clip
from data_pipelines.simulate.delayed_cue_reach import DelayedCueReach
from data_pipelines.simulate.filming import simulated_clip

_DISTURBANCE = 0.25  # standard deviation of what is executed, in units of a full command, in half of the episodes


class DelayedRobot:
  """Records episodes with all delays that are drawn."""

  def __init__(self, size: int, colors: int = 4, *, source: str, distract: bool = False, swap: bool = False):
    self._env, self._source = DelayedCueReach(size, colors, distract=distract, swap=swap), source

  def clip(self, rng: np.random.Generator) -> Clip:
    """The episode that `rng` draws, to the first frame in which a ball is touched; one that fails is drawn again."""
    while (clip := self._attempt(rng)) is None:
      pass
    return clip

  def _attempt(self, rng: np.random.Generator) -> Clip | None:
    env = self._env
    scale = _DISTURBANCE * rng.integers(2)
    # Evaluation names its episodes by small seeds: these lie beyond.
    observation = env.reset(int(rng.integers(2**32, 2**63)))
    frames, states, actions, executed, labeled = [observation.images["front"]], [observation.state], [], [], []
    over = success = False
    while not over:
      actions.append(env.expert())
      labeled.append(env.frame >= env.go)
      executed.append(np.clip(actions[-1] + scale * rng.standard_normal(3), -1, 1))
      observation, over, success = env.step(executed[-1])
      frames.append(observation.images["front"])
      states.append(observation.state)
    if not success:
      return None
    goal = env.colors[env.goal]
    return simulated_clip(
      frames,
      source=self._source,
      embodiment=env.embodiment,
      caption=f"the bar is {goal}, then gray; when it turns white, the arm touches the {goal} ball",
      instruction=env.instruction,
      states=states,
      actions=actions,
      action_mask=np.array(labeled),
      executed=executed if scale else None,
    )
