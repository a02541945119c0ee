"""Robots of other packages' simulators: what is recorded of them; and they themselves, where they are installed."""

import sys

import numpy as np
import pytest

from data_pipelines import embodiments
from data_pipelines.simulate import demonstrations, environments
from data_pipelines.simulate.environments import ENVIRONMENTS, named
from data_pipelines.simulate.fetch import FetchPickPlace
from data_pipelines.simulate.metaworld import HORIZON, MetaWorld
from data_pipelines.simulate.observation import Observation
from kairos_jax.errors import KairosError

INSTALLED = {"metaworld": "metaworld", "fetch": "gymnasium_robotics"}
PACKAGED = [name for name in ENVIRONMENTS if name.partition(":")[0] in INSTALLED]


class Line:
  """A gripper on a line that must come to 1; its script knows the way, and disturbances can push it over the edge."""

  embodiment, instruction, license, pictures = "fetch_arm", "go to one", "CC0-1.0", True

  def __init__(self, size):
    self.size = size

  def reset(self, seed):
    self.place, self.frame, self.executed = np.random.default_rng(seed).uniform(-0.5, 0, 3), 0, []
    return self._seen()

  def step(self, action):
    self.executed.append(action)
    self.place, self.frame = self.place + 0.1 * action[:3], self.frame + 1
    success = bool((np.abs(self.place - 1) < 0.2).all())
    return self._seen(), success or self.frame == 25, success

  def expert(self):
    return np.append(np.clip(10 * (1 - self.place), -1, 1), -1).astype(np.float32)

  def _seen(self):
    state = np.append(self.place, [0, 0]).astype(np.float32)
    images = {"front": np.full((self.size, self.size, 3), self.frame, np.uint8)} if self.pictures else {}
    return Observation(images, state)


@pytest.fixture
def recorder(monkeypatch):
  made = []
  monkeypatch.setitem(ENVIRONMENTS, "line:one", lambda size: made.append(Line(size)) or made[-1])
  monkeypatch.setitem(ENVIRONMENTS, "line:other", Line)
  return demonstrations.Demonstrations(8, name="line:one", source="lines"), made[0]


def test_what_is_recorded(recorder):
  """Labels are the script's at the state that is beside them; what was executed differs in half, never in the grip."""
  robot, env = recorder
  disturbed = 0
  for index in range(20):
    clip = robot.clip(np.random.default_rng(index))
    assert clip.frames == len(clip.state) == len(clip.action) + 1 and clip.action_hz == clip.video_fps == 20.0
    assert (clip.source, clip.embodiment, clip.instruction) == ("lines", "fetch_arm", "go to one")
    assert (clip.license, clip.provenance["environment"]) == ("CC0-1.0", "line:one")
    np.testing.assert_allclose(clip.action[:, :3], np.clip(10 * (1 - clip.state[:-1, :3]), -1, 1), atol=1e-5)
    assert (np.abs(clip.state[-1, :3] - 1) < 0.2).all()  # an episode that fails is not kept
    executed = np.stack(env.executed)
    assert (executed[:, 3] == -1).all()
    disturbed += np.abs(executed - clip.action).max() > 1e-6
    assert [frame[0, 0, 0] for frame in clip.cameras["front"]] == list(range(clip.frames))
  assert 4 <= disturbed <= 16


def test_a_rehearsed_clip_is_the_same_and_no_failure_is_drawn(recorder):
  robot, env = recorder
  rehearsed = demonstrations.Demonstrations(8, name="line:one", source="lines", rehearse=True)
  for index in range(20):
    expected, clip = (one.clip(np.random.default_rng(index)) for one in (robot, rehearsed))
    assert clip.provenance == expected.provenance
    np.testing.assert_array_equal(clip.action, expected.action)
    np.testing.assert_array_equal(clip.cameras["front"], expected.cameras["front"])


def test_a_robot_s_name_is_all_of_its_tasks(recorder):
  assert named("line") == ["line:one", "line:other"] and named("line:other") == ["line:other"]
  assert len(named("metaworld")) == 6 and named("fetch") == ["fetch:pick-place"]
  assert named("libero:goal") == [f"libero:goal/{task}" for task in range(10)] and len(named("libero")) == 40
  with pytest.raises(KairosError, match="no environment 'lin': metaworld:reach, "):
    named("lin")


@pytest.mark.parametrize(
  "make, package", [(FetchPickPlace, "gymnasium_robotics"), (lambda: MetaWorld("push"), "metaworld")]
)
def test_without_the_extra_one_line_names_it(monkeypatch, make, package):
  for module in [name for name in sys.modules if name.startswith(package)] or [package]:
    monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(KairosError, match=r"pip install 'kairos-jax\[robots\]'") as told:
    make()
  assert package.replace("_", "-") in str(told.value) and "\n" not in str(told.value)


@pytest.fixture(scope="module", params=PACKAGED)
def env(request):
  pytest.importorskip(INSTALLED[request.param.partition(":")[0]])
  return ENVIRONMENTS[request.param](64)


def test_it_says_what_robot_it_is(env):
  body, seen = embodiments.get(env.embodiment), env.reset(0)
  assert tuple(seen.images) == body.cameras and seen.images["front"].shape == (64, 64, 3)
  assert len(seen.state) == len(body.state) and len(env.expert()) == len(body.action)


def test_an_episode_is_its_seed(env):
  """Also in an environment in which others have been played, and in a new one beside it that shares its renderer."""
  name = f"metaworld:{env.task}" if isinstance(env, MetaWorld) else "fetch:pick-place"
  other = environments.ENVIRONMENTS[name](64)

  def play(env, seed):
    seen = [env.reset(seed)]
    seen += [env.step(np.full(4, 0.5 * (-1) ** k))[0] for k in range(4)]
    return np.stack([one.images["front"] for one in seen]), np.stack([one.state for one in seen])

  first = play(env, 2**62 + 3)
  different, again, beside = play(env, 4), play(env, 2**62 + 3), play(other, 2**62 + 3)
  for values in (again, beside):
    for a, b in zip(first, values, strict=True):
      np.testing.assert_array_equal(a, b)
  assert (first[0] != different[0]).any()


def test_the_script_succeeds_and_standing_still_does_not(env):
  for seed in range(3):
    env.reset(seed)
    over, success, steps = False, False, 0
    while not over:
      _, over, success = env.step(env.expert())
      steps += 1
    assert success and steps < 60
  env.reset(0)
  over = False
  while not over:
    _, over, success = env.step(np.zeros(4))
  assert not success


def test_the_camera_sees_the_goal(env):
  """The arm may hide it at first, in a few episodes: at most one in five here."""
  seen = []
  for seed in range(10):
    env.reset(seed)
    seen.append(env.seen_of_goal())
  assert sorted(seen)[2] >= 4, seen


@pytest.mark.mistakes
def test_mistakes(env):
  env.reset(0)
  for action in ([0, 0, 0], [0, 0, 0, np.nan]):
    with pytest.raises(KairosError, match="4 finite numbers"):
      env.step(action)
  with pytest.raises(KairosError, match="frame size"):
    type(env)(*([env.task] if isinstance(env, MetaWorld) else []), size=4)


def test_a_script_that_fails_again_and_again_is_told(recorder, monkeypatch):
  robot, env = recorder
  monkeypatch.setattr(env, "expert", lambda: np.zeros(4, np.float32))
  with pytest.raises(KairosError, match="the script of line:one failed in 20 episodes"):
    robot.clip(np.random.default_rng(0))


def test_after_its_time_an_episode_takes_no_step():
  pytest.importorskip("metaworld")
  env = MetaWorld("reach", 16)
  env.reset(0)
  for _ in range(HORIZON):
    env.step(np.array([0.0, 0, 1, 0]))
  with pytest.raises(KairosError, match=f"at most {HORIZON} steps"):
    env.step(np.zeros(4))
  with pytest.raises(KairosError, match="no Meta-World task 'fly'"):
    MetaWorld("fly")
