"""Gymnasium-Robotics' Fetch arm: pick up a block and bring it to a mark. Needs the extra `robots`.

The robot is controlled at 20 Hz (the benchmark at 25 Hz), so each action moves the physics 25 steps of 2 ms and not 20.
The block counts as brought when it has been within the benchmark's 5 cm of the mark for `STAYS` control steps in a row.
"""

import functools
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float, Float32

from data_pipelines.simulate.action import checked
from data_pipelines.simulate.observation import Observation
from data_pipelines.simulate.packaged import Mark, Viewpoint, simulator

HORIZON = 60  # control steps
STAYS = 5  # control steps
_SUBSTEPS = 25
_REACH = 0.05  # m that a full command moves
_MARK = Mark(mujoco.mjtObj.mjOBJ_SITE, "target0")
_MARK_RADIUS = 0.03  # m, as drawn; the benchmark's is 0.02


class FetchPickPlace:
  """The environment. An action is the gripper's displacement [3], of at most 5 cm, and -1 closes or 1 opens it.

  Attributes:
    embodiment, instruction, license, pictures: see `environments.Scripted`.
  """

  embodiment, instruction, license = "fetch_arm", "bring the block to the red mark", "MIT"
  pictures = True

  def __init__(self, size: int = 64):
    """Compiles the scene once; the picture is `size` x `size` pixels.

    Raises:
      KairosError: a size out of range, the extra is not installed, or no OpenGL.
    """
    self._env, self._view = _make(), _view(size)
    self._target = mujoco.mj_name2id(self._env.model, *_MARK)
    self.frame = self._stayed = 0

  def reset(self, seed: int | Sequence[int]) -> Observation:
    """Starts the episode that `seed` names: where the block and the mark are is drawn from it."""
    self._env.np_random = np.random.default_rng(seed)
    self._env.reset()
    self.frame = self._stayed = 0
    return self._observe()

  def step(self, action: Float[np.ndarray, "4"]) -> tuple[Observation, bool, bool]:
    """Moves for one control step and returns the observation, whether the episode is over, and whether it succeeded.

    Raises:
      KairosError: the action is not 4 finite numbers.
    """
    _, _, _, _, told = self._env.step(checked(action, 4).astype(np.float32))
    self.frame += 1
    self._stayed = self._stayed + 1 if told["is_success"] else 0
    success = self._stayed >= STAYS
    return self._observe(), success or self.frame >= HORIZON, success

  def expert(self) -> Float32[np.ndarray, "4"]:
    """The scripted expert's action: above the block, down with open fingers, close them, to the mark.

    It looks at where things are and remembers nothing, so it picks up again what it has lost.
    """
    grip, block, fingers = self._positions()
    offset, opened = block - grip, fingers.sum()
    across, above = float(np.linalg.norm(offset[:2])), -float(offset[2])
    if across > 0.02 and above < 0.04:
      return _move(np.array([0, 0, 0.08]), 1.0)  # beside it: first up, clear of the block
    if across > 0.015:
      return _move(offset + [0, 0, 0.06], 1.0)
    if above > 0.01:
      return _move(offset, 1.0)
    if opened > 0.055:  # the block is 5 cm wide
      return _move(offset, -1.0)
    return _move(self._env.goal - block, -1.0)

  def seen_of_goal(self) -> int:
    """How many pixels of the picture show the mark."""
    self._place_mark()
    return self._view.pixels(self._env.data, _MARK)

  def _positions(self) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"], Float[np.ndarray, "2"]]:
    """Of the gripper, the block and the two fingers, m."""
    numbers = self._env._get_obs()["observation"]
    return numbers[:3], numbers[3:6], numbers[9:11]

  def _place_mark(self) -> None:
    self._env.data.site_xpos[self._target] = self._env.goal

  def _observe(self) -> Observation:
    self._place_mark()
    grip, _, fingers = self._positions()
    state = np.concatenate([grip, fingers]).astype(np.float32)
    return Observation({"front": self._view.render(self._env.data)} if self.pictures else {}, state)


def _move(meters: Float[np.ndarray, "3"], fingers: float) -> Float32[np.ndarray, "4"]:
  return np.append(np.clip(meters / _REACH, -1, 1), fingers).astype(np.float32)


def _make() -> Any:
  env = simulator("gymnasium_robotics.envs.fetch.pick_and_place").MujocoFetchPickAndPlaceEnv()
  env.n_substeps = _SUBSTEPS
  return env


@functools.cache
def _view(size: int) -> Viewpoint:
  """One renderer for all environments."""
  model = _make().model
  model.site(_MARK.name).size[:] = _MARK_RADIUS
  return Viewpoint(model, size, lookat=(1.32, 0.75, 0.57), distance=1.15, turn=200.0)
