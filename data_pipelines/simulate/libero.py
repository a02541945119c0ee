"""LIBERO's tasks with their own cameras, initial states and success. Needs the extra `libero`.

The first INITIAL_STATES seeds name the benchmark's own initial states of a task, in their order; every other seed draws
the places of things as LIBERO's demonstrations do, so what is recorded is not what is evaluated. An episode begins
after things have come to rest, and has as many steps as released policies are given.
"""

import contextlib
import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float, Float32, UInt8

from data_pipelines.simulate.action import checked
from data_pipelines.simulate.libero_script import BowlOnPlate
from data_pipelines.simulate.observation import Observation
from data_pipelines.simulate.packaged import simulator
from data_pipelines.simulate.rendering import check_size, make_renderer
from kairos_jax.errors import KairosError

HORIZONS: Mapping[str, int] = MappingProxyType({"spatial": 220, "object": 280, "goal": 300, "10": 520})
TASKS = 10  # of each suite
INITIAL_STATES = 50
_RESTING = 10  # steps without motion before an episode
_CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}
_IDLE = np.array([0.0] * 6 + [-1.0])


class Libero:
  """The environment. An action displaces the hand [3], turns it [3], and -1 opens or 1 closes its fingers.

  Attributes:
    embodiment, instruction, license, pictures: see `environments.Scripted`.
    horizon: control steps of an episode at most.
  """

  embodiment, license = "libero_franka", "CC-BY-4.0"
  pictures = True

  def __init__(self, suite: str, task: int, size: int = 128):
    """Compiles the scene, which takes some seconds; each of the two pictures is `size` x `size` pixels.

    Raises:
      KairosError: no such suite or task, a size out of range, the extra is not installed, or no OpenGL.
    """
    if suite not in HORIZONS or not 0 <= task < TASKS:
      raise KairosError(f"no LIBERO task {suite}/{task}: suites are {', '.join(HORIZONS)}, tasks 0 to {TASKS - 1}")
    check_size(size)
    path, self.instruction, self._states = _task(suite, task)
    control = simulator("libero.libero.envs.env_wrapper", extra="libero").ControlEnv
    self._env = control(bddl_file_name=path, has_offscreen_renderer=False, use_camera_obs=False, hard_reset=False)
    self.horizon, self.frame, self._suite = HORIZONS[suite], 0, suite
    self._numbers: Mapping[str, Any] = {}
    self._script: BowlOnPlate | None = None
    self._renderer = make_renderer(self._env.sim.model._model, size)
    self._shown = mujoco.MjvOption()
    self._shown.geomgroup[0] = 0  # shapes for collisions

  def reset(self, seed: int | Sequence[int]) -> Observation:
    """Starts the episode that `seed` names."""
    own = isinstance(seed, int) and seed < INITIAL_STATES
    self._env.seed(0 if own else int(np.random.default_rng(seed).integers(2**31)))
    self._env.reset()
    gripper = self._env.env.robots[0].gripper
    gripper.current_action = np.zeros_like(gripper.current_action)  # how far it is open, which a reset leaves as it was
    if own:
      self._env.set_init_state(self._states[seed])
    for _ in range(_RESTING):
      self._numbers, *_ = self._env.step(_IDLE)
    self.frame, self._script = 0, None
    return self._observe()

  def step(self, action: Float[np.ndarray, "7"]) -> tuple[Observation, bool, bool]:
    """Moves for one control step and returns the observation, whether the episode is over, and whether it succeeded.

    Raises:
      KairosError: the action is not seven finite numbers.
    """
    self._numbers, *_ = self._env.step(checked(action, 7))
    self.frame += 1
    success = bool(self._env.check_success())
    return self._observe(), success or self.frame >= self.horizon, success

  def expert(self) -> Float32[np.ndarray, "7"]:
    """The action of a script, which knows where everything is.

    Raises:
      KairosError: the task is of another suite than spatial.
    """
    if self._suite != "spatial":
      raise KairosError(f"LIBERO's suite {self._suite} has no script; spatial has one")
    bowl, plate = (self._place(name) for name in self._env.obj_of_interest)
    self._script = self._script or BowlOnPlate(bowl)
    return self._script.action(self._numbers["robot0_eef_pos"], bowl, plate)

  def _place(self, name: str) -> Float[np.ndarray, "3"]:
    return self._env.sim.data.body_xpos[self._env.env.obj_body_id[name]].copy()

  def _observe(self) -> Observation:
    numbers = self._numbers
    turned = _axis_angle(numbers["robot0_eef_quat"])
    state = np.concatenate([numbers["robot0_eef_pos"], turned, numbers["robot0_gripper_qpos"]])
    images = {name: self._picture(of) for name, of in _CAMERAS.items()} if self.pictures else {}
    return Observation(images, state.astype(np.float32))

  def _picture(self, camera: str) -> UInt8[np.ndarray, "H W 3"]:
    """Mirrored: the simulator's own pictures, rotated by 180 degrees, as the released policies saw them."""
    self._renderer.update_scene(self._env.sim.data._data, camera, self._shown)
    return self._renderer.render()[:, ::-1]


@functools.cache
def _task(suite: str, task: int) -> tuple[str, str, np.ndarray]:
  """The file that describes it, its instruction, and its initial states [50, S]."""
  with contextlib.redirect_stdout(io.StringIO()):  # it tells the order of tasks
    every = simulator("libero.libero.benchmark", extra="libero").get_benchmark(f"libero_{suite}")()
    states = every.get_task_init_states(task)
  found = every.get_task(task)
  folder = simulator("libero.libero", extra="libero").get_libero_path("bddl_files")
  return str(Path(folder) / found.problem_folder / found.bddl_file), found.language, np.asarray(states)


def _axis_angle(quaternion: Float[np.ndarray, "4"]) -> Float[np.ndarray, "3"]:
  """Of x, y, z, w, with an angle of 0 to 2 pi: LIBERO's demonstrations turn no quaternion into its nearer twin."""
  sine = np.sqrt(max(0.0, 1 - quaternion[3] ** 2))
  if sine < 1e-8:
    return np.zeros(3)
  return quaternion[:3] * 2 * np.arccos(np.clip(quaternion[3], -1, 1)) / sine
