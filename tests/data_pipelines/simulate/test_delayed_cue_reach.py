"""DelayedCueReach: its times, its brake, its expert, and floors that hold exactly."""

import numpy as np
import pytest

from data_pipelines.simulate.delayed_cue_reach import ALLOWED, CUE_FRAMES, CUES, DelayedCueReach, floors
from data_pipelines.simulate.generate import generate
from kairos_jax.errors import KairosError


@pytest.fixture(scope="module")
def env():
  return DelayedCueReach(size=16)


def bar(observation):
  """The brightest pixel of the bar's front."""
  pixels = observation.images["front"][3:6, 4:12].reshape(-1, 3).astype(int)
  return pixels[pixels.sum(axis=1).argmax()] / 255


def run(env, act):
  """The choice that comes of a policy, and how often the arm moved before the brake was released."""
  over, moved, tip, success = False, 0, env.table.tip.copy(), False
  while not over:
    braked = env.frame < env.go + 3
    _, over, success = env.step(act(env))
    moved += bool(braked and (env.table.tip != tip).any())
  return env.choice, success, moved


@pytest.mark.parametrize("options", [{}, dict(swap=True), dict(distract=True), dict(swap=True, distract=True)])
@pytest.mark.parametrize("colors", ALLOWED)
def test_the_expert_solves_it(colors, options):
  env = DelayedCueReach(16, colors, **options)
  for seed in range(4):
    env.reset(seed)
    choice, success, moved = run(env, DelayedCueReach.expert)
    assert success and choice == env.colors[env.goal] and env.frame < env.end and not moved


def test_the_bar_shows_the_cue_then_gray_for_the_delay_then_white(env):
  shown = {"red": (0.9, 0.12), "blue": (0.12, 0.98), "green": (0.1, 0.25), "yellow": (0.98, 0.12)}
  for goal, color in enumerate(env.colors):
    seen = [env.reset(3, goal=goal, delay=8)] + [env.step(np.zeros(3))[0] for _ in range(env.go + 1)]
    bars = np.array([bar(observation) for observation in seen])
    red, blue = shown[color]
    # Light changes how bright a color is; its order of channels stays.
    assert np.all((bars[:CUE_FRAMES, 0] > bars[:CUE_FRAMES, 2]) == (red > blue))
    assert np.ptp(bars[:CUE_FRAMES], axis=1).min() > 0.3
    assert np.ptp(bars[CUE_FRAMES:], axis=1).max() < 0.02
    assert env.go == CUE_FRAMES + 8 and bars[env.go - 1].max() < 0.7 < bars[env.go].min()


def test_nothing_but_the_bar_tells_the_color(env):
  """After the cue, films of one scene in two colors are the same, bit for bit, whatever the arm is commanded."""
  films = []
  for goal in (0, 3):
    env.reset(5, goal=goal, delay=12)
    rng = np.random.default_rng(0)
    films.append([env.step(rng.uniform(-1, 1, 3))[0].images["front"] for _ in range(env.go + 2)])
  first, second = np.array(films)
  assert (first[: CUE_FRAMES - 1] != second[: CUE_FRAMES - 1]).any()
  np.testing.assert_array_equal(first[CUE_FRAMES - 1 :], second[CUE_FRAMES - 1 :])


def test_delays_are_drawn_or_given(env):
  drawn = []
  for seed in range(40):
    env.reset(seed)
    drawn.append(env.delay)
  assert min(drawn) < 20 and max(drawn) > 76 and all(delay % 4 == 0 and 0 <= delay <= 96 for delay in drawn)
  fixed = DelayedCueReach(16, delay=20)
  fixed.reset(1)
  assert (fixed.delay, fixed.go) == (20, 25)
  fixed.reset(1, delay=4)
  assert fixed.delay == 4


def test_a_second_cue_takes_the_place_of_the_first():
  env = DelayedCueReach(16, 4, swap=True)
  for seed in range(8):
    seen = [bar(env.reset(seed, delay=4))]
    seen += [bar(env.step(np.zeros(3))[0]) for _ in range(env.go)]
    colored = [np.ptp(x) > 0.3 for x in seen]
    assert sum(colored) == CUE_FRAMES + 4 and colored[env.go - 5] and not any(colored[env.go - 4 :])
    assert np.abs(seen[0] - seen[env.go - 5]).max() > 0.2  # another color


def test_distraction_changes_the_scene_while_the_arm_waits():
  plain, busy = DelayedCueReach(16, 4), DelayedCueReach(16, 4, distract=True)
  changed = []
  for env in (plain, busy):
    seen = [env.reset(2, delay=16)] + [env.step(np.zeros(3))[0] for _ in range(env.go)]
    waiting = np.stack([x.images["front"] for x in seen[CUE_FRAMES : env.go]]).astype(int)
    changed.append(np.abs(np.diff(waiting, axis=0)).max(axis=(1, 2, 3)) > 20)
  assert not changed[0].any() and 3 <= changed[1].sum() <= 4
  assert (seen[-1].images["front"] == plain.reset(2, delay=0).images["front"]).mean() > 0.7  # the go signal is plain


def blind(env):
  return env.table.reach(env.table.balls[0])


def still(env):
  return np.zeros(3)


def restless(env):
  return np.random.default_rng(env.frame).uniform(-1, 1, 3)


@pytest.mark.parametrize("policy", [blind, still, restless])
@pytest.mark.parametrize("colors", [2, 8])
def test_who_does_not_know_the_color_is_right_for_exactly_one_of_them(policy, colors):
  env = DelayedCueReach(16, colors)
  for seed in (0, 1):
    won = []
    for goal in range(colors):
      env.reset(seed, goal=goal, delay=0)
      won.append(run(env, policy)[1])
    assert sum(won) == 1  # so that the rate is 1 / colors, the closed form
  assert {floors(colors)[name] for name in ("guess", "blind", "random")} == {1 / colors}


def test_the_first_of_two_colors_is_always_wrong():
  env = DelayedCueReach(16, 4, swap=True)
  for seed in range(3):
    env.reset(seed, delay=0)
    first = env._cues[0][2]
    _, success, _ = run(env, lambda env: env.table.reach(env.table.balls[env.colors.index(first)]))  # noqa: B023
    assert not success
  assert floors(4)["first"] == 0


def test_clips_label_only_what_is_decided_after_the_go_signal():
  for clip in generate("delayed4", 3, seed=1, size=16):
    labeled = np.flatnonzero(clip.action_mask)
    assert labeled[-1] == len(clip.action) - 1 and np.all(np.diff(labeled) == 1)
    assert not clip.action[: labeled[0]].any() and clip.action[labeled[0] :].any(axis=1).all()
    assert not np.ptp(clip.state[: labeled[0] + 3], axis=0).any()  # the brake
    assert not any(color in clip.instruction for color in CUES)


@pytest.mark.mistakes
def test_user_errors(env):
  with pytest.raises(KairosError, match="colors is 3; allowed: 2, 4, 8"):
    DelayedCueReach(16, 3)
  with pytest.raises(KairosError, match="delay is -4"):
    DelayedCueReach(16, delay=-4)
  env.reset(0)
  with pytest.raises(KairosError, match="3 finite numbers"):
    env.step(np.full(3, np.nan))
