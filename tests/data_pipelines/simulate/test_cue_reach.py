import numpy as np
import pytest

from data_pipelines import embodiments
from data_pipelines.simulate.cue_reach import CUE_FRAMES, HORIZON, CueReach
from data_pipelines.simulate.disturbance import Disturbance
from data_pipelines.simulate.tabletop import BALLS
from kairos_jax.errors import KairosError

GRAY, RED, BLUE = 0, 1, 2


@pytest.fixture(scope="module")
def env():
  return CueReach(size=48)


def bar_color(frame):
  """What the bar shows, by its pixels: rows near the top, in the middle."""
  red, _, blue = frame[12:16, 18:30].reshape(-1, 3).astype(int).max(axis=0)
  return RED if red > blue + 60 else BLUE if blue > red + 60 else GRAY


@pytest.mark.parametrize("cue", ["visible", "hidden"])
def test_the_expert_always_succeeds(env, cue):
  env.cue = cue
  for seed in range(20):
    env.reset(seed)
    done = success = False
    while not done:
      _, done, success = env.step(env.expert())
    assert success and env.frame < HORIZON, seed


def test_who_sees_a_rolling_ball_dimly_reaches_it_as_its_expert_does():
  """Told the ball's place to 4 cm at every fourth frame, and disturbed; diving at one distance fails half the time."""
  env, rates = CueReach(16, speed=0.08), {}
  for name in ("chase", "reach"):
    succeeded = []
    for seed in range(40):
      env.reset(seed)
      rng, done, success = np.random.default_rng(seed), False, False
      disturbance = Disturbance(rng, 0.35, 3)
      while not done:
        if env.frame % 4 == 0:
          seen = env.table.balls[env.goal] + 0.04 * rng.standard_normal(3)
        _, done, success = env.step(getattr(env.table, name)(seen) + disturbance.now)
        disturbance.advance()
      succeeded.append(success)
    rates[name] = np.mean(succeeded)
  assert rates["chase"] >= 0.9 and rates["chase"] >= rates["reach"] + 0.2


def test_the_bar_tells_the_goal_and_a_hidden_cue_is_gone(env):
  seen = set()
  for seed in range(6):
    for cue in ("visible", "hidden"):
      env.cue = cue
      frames = [env.reset(seed).images["front"]] + [
        env.step(np.zeros(3))[0].images["front"] for _ in range(CUE_FRAMES + 1)
      ]
      shown = (RED, BLUE)[env.goal]
      after = shown if cue == "visible" else GRAY
      assert [bar_color(frame) for frame in frames] == [shown] * CUE_FRAMES + [after] * 2
      seen.add(shown)
  assert seen == {RED, BLUE}


def test_a_held_arm_waits_whatever_it_is_told(env):
  """And then has as much time as ever: the expert still succeeds."""
  env.cue, env.hold = "hidden", 16
  try:
    env.reset(3)
    tip = env.table.tip.copy()
    for _ in range(CUE_FRAMES + 16):
      env.step(np.ones(3))
    assert (env.table.tip == tip).all()
    env.step(np.ones(3))
    assert (env.table.tip != tip).any()
    env.reset(4)
    done = success = False
    while not done:
      _, done, success = env.step(env.expert())
    assert success and CUE_FRAMES + 16 < env.frame < HORIZON + 16
  finally:
    env.hold = 0


def test_an_episode_is_its_seed(env):
  env.cue = "visible"
  first, again, other = (env.reset(seed) for seed in (3, 3, 4))
  np.testing.assert_array_equal(first.images["front"], again.images["front"])
  np.testing.assert_array_equal(first.state, again.state)
  assert first.state.dtype == np.float32 and (first.images["front"] != other.images["front"]).any()
  fresh = CueReach(size=48).reset(3)
  np.testing.assert_array_equal(first.images["front"], fresh.images["front"])


def test_the_wrong_ball_ends_the_episode_without_success(env):
  env.cue = "visible"
  env.reset(0)
  env.goal = 1 - env.goal
  wrong, env.goal = env.goal, 1 - env.goal
  done = False
  while not done:
    _, done, success = env.step(env.table.reach(env.table.balls[wrong]))
  assert env.touched == [BALLS[wrong]] and not success


def test_it_says_what_robot_it_is_and_what_to_do(env):
  embodiment = embodiments.get(env.embodiment)
  observation = env.reset(0)
  assert embodiment.name == "slide_arm" and tuple(observation.images) == embodiment.cameras
  assert len(observation.state) == len(embodiment.state) and len(env.expert()) == len(embodiment.action)
  assert env.instruction and not any(color in env.instruction for color in BALLS)


def test_time_runs_out(env):
  env.reset(0)
  results = [env.step(np.zeros(3))[1:] for _ in range(HORIZON)]
  assert results[-2:] == [(False, False), (True, False)]


@pytest.mark.mistakes
def test_user_errors(env):
  with pytest.raises(KairosError, match="cue mode"):
    CueReach(cue="blind")
  with pytest.raises(KairosError, match="frame size"):
    CueReach(size=4)
  env.reset(0)
  for action in ([0, 0], [0, 0, np.nan]):
    with pytest.raises(KairosError, match="3 finite numbers"):
      env.step(action)
