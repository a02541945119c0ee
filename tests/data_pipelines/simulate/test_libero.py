"""LIBERO where it is installed, beside the benchmark's own environment; its script always."""

import sys

import numpy as np
import pytest

from data_pipelines import embodiments
from data_pipelines.simulate import libero
from data_pipelines.simulate.libero import Libero
from data_pipelines.simulate.libero_script import BowlOnPlate
from kairos_jax.errors import KairosError


def test_the_script_carries_a_bowl_to_a_plate():
  """A hand that goes where it is told; the bowl goes with it while the fingers are closed about its rim."""
  for seed in range(5):
    rng = np.random.default_rng(seed)
    hand, bowl, plate = rng.uniform(-0.2, 0.2, (3, 3)) + [[0, 0, 1.2], [0, 0, 0.9], [0, 0, 0.9]]
    bowl[2] = plate[2] = 0.9
    script, held, highest = BowlOnPlate(bowl), False, 0.0
    for _ in range(400):
      action = script.action(hand, bowl, plate)
      assert (np.abs(action) <= 1).all() and not action[3:6].any()
      held = action[6] > 0 and (held or np.linalg.norm(hand - bowl - [0, 0.045, 0.03]) < 0.015)
      step = 0.02 * action[:3]
      hand, bowl = hand + step, bowl + held * step
      highest = max(highest, bowl[2])
    assert np.linalg.norm((bowl - plate)[:2]) < 0.03 and 0 <= bowl[2] - 0.9 < 0.1 and highest > 1.1


def test_without_the_extra_one_line_names_it(monkeypatch):
  for module in [name for name in sys.modules if name.startswith("libero")] or ["libero"]:
    monkeypatch.setitem(sys.modules, module, None)
  libero._task.cache_clear()
  with pytest.raises(KairosError, match=r"pip install 'kairos-jax\[libero\]'"):
    Libero("spatial", 0)


def test_a_task_that_is_not_there():
  for suite, task in (("spatial", 10), ("moon", 0)):
    with pytest.raises(KairosError, match=f"no LIBERO task {suite}/{task}: suites are spatial, object, goal, 10"):
      Libero(suite, task)


@pytest.fixture(scope="module")
def env():
  pytest.importorskip("libero")
  return Libero("spatial", 0, 64)


def test_pictures_and_state_are_the_benchmark_s_own(env):
  """Rotated by 180 degrees, as the released policies saw them."""
  from libero.libero.envs import OffScreenRenderEnv

  path, instruction, states = libero._task("spatial", 0)
  theirs = OffScreenRenderEnv(bddl_file_name=path, camera_heights=64, camera_widths=64)
  theirs.seed(0)
  theirs.reset()
  theirs.set_init_state(states[3])
  for _ in range(libero._RESTING):
    seen, *_ = theirs.step([0.0] * 6 + [-1.0])
  ours = env.reset(3)
  body = embodiments.get(env.embodiment)
  assert tuple(ours.images) == body.cameras and len(ours.state) == len(body.state) and instruction == env.instruction
  for name, key in (("agentview", "agentview_image"), ("wrist", "robot0_eye_in_hand_image")):
    assert np.abs(ours.images[name].astype(int) - seen[key][::-1, ::-1]).mean() < 0.3
  np.testing.assert_allclose(ours.state[:3], seen["robot0_eef_pos"], atol=1e-5)
  np.testing.assert_allclose(ours.state[6:], seen["robot0_gripper_qpos"], atol=1e-5)
  from robosuite.utils.transform_utils import quat2axisangle

  np.testing.assert_allclose(ours.state[3:6], quat2axisangle(np.array(seen["robot0_eef_quat"])), atol=1e-5)


def test_an_episode_is_its_seed_whatever_came_before(env, monkeypatch):
  """The benchmark's reset leaves the fingers' command where the last episode left it."""
  monkeypatch.setattr(env, "pictures", False)

  def states(closed):
    seen = [env.reset(2**40).state]
    seen += [env.step(np.append(np.zeros(6), 1.0 if closed else -1.0))[0].state for _ in range(5)]
    return np.stack(seen)

  first = states(closed=True)
  np.testing.assert_array_equal(states(closed=True), first)
  assert np.abs(states(closed=False) - first).max() > 1e-3


def test_the_script_succeeds_from_the_benchmark_s_states_and_from_others(env, monkeypatch):
  monkeypatch.setattr(env, "_picture", lambda camera: np.zeros((8, 8, 3), np.uint8))
  starts = []
  for seed in (0, 2**40, 0):
    env.reset(seed)
    starts.append(env._place(env._env.obj_of_interest[0]))
    over = success = False
    while not over:
      _, over, success = env.step(env.expert())
    assert success and 60 < env.frame < libero.HORIZONS["spatial"]
  assert np.abs(starts[0] - starts[1]).max() > 1e-3
  np.testing.assert_allclose(starts[0], starts[2], atol=1e-9)


def test_other_suites_have_no_script():
  pytest.importorskip("libero")
  other = Libero("object", 0, 16)
  with pytest.raises(KairosError, match="LIBERO's suite object has no script"):
    other.expert()
