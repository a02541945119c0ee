"""Meta-World's Sawyer arm at six of its tasks, from a camera that sees the goal. Needs the extra `robots`.

Meta-World moves at 80 Hz; here an action is held for four of its steps, so the robot is controlled at 20 Hz. An episode
ends with the benchmark's own success, or after its 500 steps. From the benchmark's cameras a goal is nowhere in a small
picture (`corner2` at 48 pixels), so ours is closer, and the sphere that marks a goal is drawn with a larger radius.
"""

import functools
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float, Float32

from data_pipelines.simulate.action import checked
from data_pipelines.simulate.observation import Observation
from data_pipelines.simulate.packaged import Mark, Viewpoint, simulator
from kairos_jax.errors import KairosError

HORIZON = 125  # control steps: the benchmark's 500
_HELD = 4  # steps of the benchmark an action
_GOAL_RADIUS = 0.03  # m, as drawn; the benchmark's is 0.02
_SITE, _BODY = mujoco.mjtObj.mjOBJ_SITE, mujoco.mjtObj.mjOBJ_BODY


INSTRUCTIONS: Mapping[str, str] = MappingProxyType(
  {  # by the benchmark's names; its own scripts solve all of them at 20 Hz too
    "reach": "move the gripper to the red mark",
    "push": "push the puck to the green mark",
    "button-press-topdown": "press the button from above",
    "drawer-open": "open the drawer",
    "door-open": "open the door",
    "window-open": "slide the window open",
  }
)
_MARKS = {  # what in the scene shows where to go, or what to move
  "reach": Mark(_SITE, "goal"),
  "push": Mark(_SITE, "goal"),
  "button-press-topdown": Mark(_BODY, "button"),
  "drawer-open": Mark(_BODY, "drawer_link"),
  "door-open": Mark(_BODY, "door_link"),
  "window-open": Mark(_BODY, "windowb_a"),
}


class MetaWorld:
  """The environment. An action is the hand's displacement [3], of at most 4 cm, and the effort of its fingers.

  Attributes:
    embodiment, instruction, license, pictures: see `environments.Scripted`.
    task: of INSTRUCTIONS.
  """

  embodiment, license = "metaworld_sawyer", "MIT"
  pictures = True

  def __init__(self, task: str, size: int = 64):
    """Compiles the scene once; the picture is `size` x `size` pixels.

    Raises:
      KairosError: an unknown task, a size out of range, the extra is not installed, or no OpenGL.
    """
    self._env = _make(task)
    self._view = _view(task, size)
    self.task, self.instruction = task, INSTRUCTIONS[task]
    name = "".join(part.capitalize() for part in task.split("-"))
    self._script = getattr(simulator("metaworld.policies"), f"Sawyer{name}V3Policy")()
    self._numbers = np.zeros(39)  # the benchmark's observation, of which the robot feels the first four
    self.frame = 0

  def reset(self, seed: int | Sequence[int]) -> Observation:
    """Starts the episode that `seed` names: where things and the goal are is drawn from it."""
    self._env.np_random = np.random.default_rng(seed)
    self._numbers, _ = self._env.reset()
    self.frame = 0
    return self._observe()

  def step(self, action: Float[np.ndarray, "4"]) -> tuple[Observation, bool, bool]:
    """Moves for one control step and returns the observation, whether the episode is over, and whether it succeeded.

    Raises:
      KairosError: the action is not 4 finite numbers, or the episode's time is up.
    """
    action = checked(action, 4)
    if self.frame >= HORIZON:
      raise KairosError(f"{self.task}: an episode has at most {HORIZON} steps; reset begins another")
    success = False
    for _ in range(_HELD):
      self._numbers, _, _, _, told = self._env.step(action)
      success |= bool(told["success"])
    self.frame += 1
    return self._observe(), success or self.frame >= HORIZON, success

  def expert(self) -> Float32[np.ndarray, "4"]:
    """The action of the benchmark's own script, which knows where everything is."""
    return np.clip(self._script.get_action(self._numbers), -1, 1).astype(np.float32)

  def seen_of_goal(self) -> int:
    """How many pixels of the picture show where to go, or what to move."""
    self._place_marks()
    return self._view.pixels(self._env.data, _MARKS[self.task])

  def _place_marks(self) -> None:
    """Puts the marks to the goals. The benchmark does so too, but before a pass that undoes it."""
    for site, place in self._env._target_site_config:
      self._env._set_pos_site(site, place)

  def _observe(self) -> Observation:
    self._place_marks()
    images = {"front": self._view.render(self._env.data)} if self.pictures else {}
    return Observation(images, self._numbers[:4].astype(np.float32))


def _make(task: str) -> Any:
  """The benchmark's environment, whose script is told the goal, and whose resets draw from a generator of ours."""
  if task not in INSTRUCTIONS:
    raise KairosError(f"no Meta-World task {task!r}: {', '.join(INSTRUCTIONS)}")
  warnings.filterwarnings("ignore", "Constant", module=r"metaworld\.")  # its scripts ask for more than a full command
  env = simulator("metaworld.env_dict").ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
  env._partially_observable = env._freeze_rand_vec = False
  env.seeded_rand_vec = env._set_task_called = True
  env.__dict__.pop("sawyer_observation_space", None)  # it was made without the goal
  return env


@functools.cache
def _view(task: str, size: int) -> Viewpoint:
  """One renderer for all environments of a task."""
  model = _make(task).model
  for site in range(model.nsite):
    if model.site(site).name == "goal":
      model.site(site).size[:] = _GOAL_RADIUS
  return Viewpoint(model, size, lookat=(0.0, 0.68, 0.12), distance=1.1, turn=150.0)
