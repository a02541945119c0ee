"""Stage III: episodes of CueReach by its expert, with states, actions and the instruction.

The label of every action is what the expert commands. What is executed is disturbed in some episodes, so that the
data shows how to recover; the instruction never names the color, which only the bar tells.
"""

import numpy as np

from data_pipelines.records import Clip
from data_pipelines.simulate.cue_reach import BODIES, CueReach
from data_pipelines.simulate.disturbance import Disturbance
from data_pipelines.simulate.filming import simulated_clip
from data_pipelines.simulate.tabletop import BALLS, REACH

_FRAMES = (21, 41)  # shortest and longest clip
_CHASE = 61  # longest clip of a ball that rolls
_AFTER_TOUCH = 6  # frames
_DISTURBED_SHARE = 0.6  # of episodes, unless said otherwise
_REST = np.array([0.0, REACH[1, 1], REACH[1, 2]])  # m, far behind the balls and above them
_DISTURBANCE = (0.3, 0.4)  # range of its standard deviation, in units of a full command


class Robot:
  """Records episodes of a robot; `hidden_share` of them with the cue hidden after its first frames.

  `disturbed_share` of them have the arm disturbed, with so many `shoves` in a step. What is executed goes for a
  ball that it `misjudges` by so much (standard deviation, m): like a policy's own actions, it does not tell where the
  ball is. In `resting_share` of them the arm leaves the task alone, goes to rest and stays there for the whole clip,
  like recordings of something else that got among the demonstrations. `speed` is the balls', m/s.
  """

  def __init__(
    self,
    size: int,
    hidden_share: float = 0.5,
    *,
    source: str = "robot",
    robot: str = "slide_arm",
    disturbed_share: float = _DISTURBED_SHARE,
    shoves: float = 0.0,
    misjudges: float = 0.0,
    resting_share: float = 0.0,
    speed: float = 0.0,
  ):
    self._env = CueReach(size, robot=robot, speed=speed)
    self._ends_with_touch = bool(speed)  # what follows a rolling ball from near would teach to hover
    self._source, self._camera = source, BODIES[robot].camera
    self._hidden_share, self._disturbed_share, self._shoves = hidden_share, disturbed_share, shoves
    self._misjudges, self._resting_share = misjudges, resting_share

  def clip(self, rng: np.random.Generator) -> Clip:
    """The episode that `rng` draws; one that fails (about 1 in 60) is drawn again."""
    while (clip := self._attempt(rng)) is None:
      pass
    return clip

  def _attempt(self, rng: np.random.Generator) -> Clip | None:
    env = self._env
    env.cue = "hidden" if rng.random() < self._hidden_share else "visible"
    scale = rng.uniform(*_DISTURBANCE) if rng.random() < self._disturbed_share else 0.0
    # Evaluation names its episodes by small seeds: these lie beyond.
    observation = env.reset(int(rng.integers(2**32, 2**63)))
    frames, states, actions, executed = [observation.images[self._camera]], [observation.state], [], []
    disturbance = Disturbance(rng, scale, 3, self._shoves)
    error = Disturbance(rng, self._misjudges, 3) if self._misjudges else None
    rests = self._resting_share > 0 and rng.random() < self._resting_share
    end = _CHASE if self._ends_with_touch else _FRAMES[1]
    while len(frames) < end:
      actions.append(env.toward(_REST) if rests else env.expert())
      does = env.expert(error.now) if error and not rests else actions[-1]
      executed.append(np.clip(does + disturbance.now, -1, 1))
      observation, _, _ = env.step(executed[-1])
      frames.append(observation.images[self._camera])
      states.append(observation.state)
      disturbance.advance()
      if error:
        error.advance()
      if env.touched and self._ends_with_touch:
        break
      if env.touched and end == _FRAMES[1]:
        end = min(max(len(frames) + _AFTER_TOUCH, _FRAMES[0]), _FRAMES[1])
    if env.touched != ([] if rests else [BALLS[env.goal]]):
      return None
    return simulated_clip(
      frames,
      source=self._source,
      embodiment=env.embodiment,
      caption=_caption(env, rests),
      instruction=env.instruction,
      states=states,
      actions=actions,
      executed=executed if scale or error else None,
      camera=self._camera,
    )


def _caption(env: CueReach, rests: bool) -> str:
  goal, other = BALLS[env.goal], BALLS[1 - env.goal]
  side = "left" if env.table.balls[env.goal, 0] < env.table.balls[1 - env.goal, 0] else "right"
  bar = f"the bar is {goal}" if env.cue == "visible" else f"the bar is {goal} for a moment, then gray"
  if rests:
    return f"a {env.body.color} robot arm: {bar}; the arm rests far behind the balls"
  return (
    f"a {env.body.color} robot arm: {bar}; the arm reaches over and touches the {goal} ball, {side} of the {other} one"
  )
