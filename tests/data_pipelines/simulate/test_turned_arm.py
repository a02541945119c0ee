"""The other robot: what differs from the first one, and that its expert knows its own axes."""

import numpy as np
import pytest

from data_pipelines import embodiments
from data_pipelines.simulate.cue_reach import BODIES, CueReach
from data_pipelines.simulate.generate import generate
from kairos_jax.errors import KairosError


@pytest.mark.parametrize("robot", BODIES)
def test_each_command_moves_the_axis_that_the_embodiment_names(robot):
  env = CueReach(16, robot=robot)
  for index, quantity in enumerate(embodiments.get(robot).action):
    env.reset(3)
    before = env.table.tip.copy()
    for _ in range(4):
      env.step(np.eye(3)[index])
    moved = env.table.tip - before
    assert np.argmax(np.abs(moved)) == "xyz".index(quantity.name.removeprefix("tip_")) and moved.max() > 0.05


@pytest.mark.parametrize("robot", BODIES)
def test_its_expert_succeeds_and_is_seen_by_the_embodiment_s_camera(robot):
  env, successes = CueReach(16, robot=robot), 0
  for seed in range(8):
    observation, over = env.reset(seed), False
    assert tuple(observation.images) == embodiments.get(robot).cameras
    while not over:
      observation, over, success = env.step(env.expert())
    successes += success
  assert successes >= 7


def test_the_same_scene_looks_otherwise():
  one, other = (CueReach(32, robot=robot).reset(5) for robot in BODIES)
  (front,), (side,) = one.images.values(), other.images.values()
  np.testing.assert_array_equal(one.state, other.state)
  assert np.abs(front.astype(int) - side).mean() > 5


def test_its_clips():
  (clip,) = generate("turned_robot", 1, seed=0, size=16)
  assert (clip.source, clip.embodiment, tuple(clip.cameras)) == ("turned_robot", "turned_arm", ("side",))
  assert clip.caption.startswith("a green robot arm") and clip.action_mask.all()


def test_a_robot_that_is_none_is_told():
  with pytest.raises(KairosError, match="no robot 'crane' reaches for balls: slide_arm, turned_arm"):
    CueReach(16, robot="crane")
