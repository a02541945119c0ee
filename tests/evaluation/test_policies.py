"""Policies: that the model's slots are what streams alone would be, however long they are, and the baselines."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.normalize import EmbodimentNormalizer
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.closed_loop import run_episodes
from kairos_jax.evaluation.policies import BlindPolicy, ExpertPolicy, ModelPolicy, RandomPolicy
from kairos_jax.runtime import WorldModel
from tests import tiny
from tests.evaluation.counter import Counter, Seen, brightness


@pytest.fixture(scope="module")
def model(tiny_saved):
  return WorldModel(tiny_saved)


def seen(frames, states=None):
  states = np.arange(3 * len(frames), dtype=np.float32).reshape(-1, 3) / 50 if states is None else states
  return [Seen({"front": frame}, state) for frame, state in zip(frames, states, strict=True)]


@pytest.fixture(scope="module")
def shared(model):
  """A policy for the tests that need no other: it compiles once."""
  return policy_for(model)


def policy_for(model, slots=2, **changes):
  model = WorldModel(dataclasses.replace(model.saved, **changes)) if changes else model
  return ModelPolicy(model, ["push", "pull"][:slots], "slide_arm", steps=2)


def test_slots_at_different_moments_answer_as_streams_alone(model):
  policy, video = policy_for(model), [seen(tiny.frames(9, seed=i)) for i in range(2)]
  policy.reset([0, 1])
  first = policy.act([1], [video[1][:1]], [70])
  second = policy.act([1], [video[1][1:5]], [71])
  third = policy.act([0], [video[0][:1]], [72])
  both = policy.act([0, 1], [video[0][1:5], video[1][5:9]], [73, 74])
  for slot, text, answers in (
    (0, "push", [(third[0], 0, 72), (both[0], 4, 73)]),
    (1, "pull", [(first[0], 0, 70), (second[0], 4, 71), (both[1], 8, 74)]),
  ):
    frames = np.stack([o.images["front"] for o in video[slot]])
    stream = model.prefill(frames[:1], text)
    for got, now, seed in answers:
      stream = model.extend(stream, frames[now - 3 : now + 1]) if now else stream
      want = model.act(stream, video[slot][now].state, seed=[seed], steps=2)[:4]
      np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_stream_goes_on_beyond_the_histories_of_training(model, shared):
  """Clips of 9 frames are 3 latents; an episode of 5 is still one stream."""
  policy, frames = shared, tiny.frames(17)
  steps = [frames[:1], frames[1:5], frames[5:9], frames[9:13], frames[13:17]]
  policy.reset([0])
  for part in steps:
    answer = policy.act([0], [seen(part)], [7])[0]
  stream = model.prefill(frames[:1], "push")
  for part in steps[1:]:
    stream = model.extend(stream, part)
  np.testing.assert_allclose(answer, model.act(stream, seen(part)[-1].state, seed=[7], steps=2), atol=1e-5)


def test_a_reset_forgets(shared):
  policy, video = shared, seen(tiny.frames(9))
  policy.reset([0, 1])
  before = policy.act([0, 1], [video[:1]] * 2, [5, 6])
  policy.act([0, 1], [video[1:5]] * 2, [5, 6])
  policy.reset([0])
  np.testing.assert_allclose(policy.act([0], [video[:1]], [5])[0], before[0], atol=1e-5)


class Pool:
  """Stands in for slots: keeps the brightness of the frames that it is given."""

  def __init__(self):
    self.occupied, self.calls = {0}, []

  def reset(self, slots, frames):
    self.calls.append(("reset", frames[0, :, 0, 0, 0].tolist()))

  def extend(self, slots, frames):
    self.calls.append(("extend", frames[0, :, 0, 0, 0].tolist()))

  def act(self, slots, states, **_):
    return np.zeros((len(slots), 12, 3)) + states[:, None]


def test_frames_are_found_by_time_where_control_is_faster_than_video(model):
  robot = next(iter(model.saved.embodiments.values()))
  fast = EmbodimentNormalizer(dataclasses.replace(robot.embodiment, control_hz=20.0), robot.state, robot.action)
  policy = policy_for(model, slots=1, embodiments={"slide_arm": fast}, action_horizon=12)
  policy._pool = pool = Pool()
  policy.reset([0])
  answers = []
  for first, last in ((0, 0), (1, 8), (9, 16)):
    shown = [np.full((16, 16, 3), n, np.uint8) for n in range(first, last + 1)]
    answers.append(policy.act([0], [seen(shown, np.full((len(shown), 3), last))], [1]))
  assert pool.calls == [("reset", [0]), ("extend", [2, 4, 6, 8]), ("extend", [10, 12, 14, 16])]
  assert [x.shape for x in answers] == [(1, 8, 3)] * 3 and answers[1].max() == 8  # the state of now


@pytest.mark.parametrize(
  "changes, line",
  [
    (dict(action_horizon=3), "gives 3 actions; a latent of new frames takes 4"),
    (dict(video_fps=8.0), "10 Hz at 8 frames a second"),
    (dict(video_fps=20.0), "10 Hz at 20 frames a second"),
    (dict(model_config=tiny.model_config(layers=("SWA", "FA"))), "keep all frames"),
  ],
)
def test_models_that_cannot_drive(model, changes, line):
  with pytest.raises(KairosError, match=line):
    policy_for(model, **changes)
  with pytest.raises(KairosError, match="embodiment is 'hand'"):
    ModelPolicy(model, ["push"], "hand")


@dataclasses.dataclass
class Told:
  calls: list = dataclasses.field(default_factory=list)

  def reset(self, slots):
    self.calls.append(slots)

  def act(self, slots, observations, seeds):
    self.calls.append([([brightness(o), o.state[0]]) for seen in observations for o in seen])
    return np.zeros((len(slots), 4, 3))


def test_the_blind_see_black_and_feel_their_state():
  inner = Told()
  list(run_episodes([Counter()], [8], BlindPolicy(inner)))
  assert inner.calls == [[0], [[0, 0]], [[0, 1], [0, 2], [0, 3], [0, 4]]]


def test_random_actions_are_the_seeds_and_within_the_limits():
  policy = RandomPolicy(3, 4)
  first, second = policy.act([0, 1], [[], []], [8, 9]), policy.act([5], [[]], [9])
  assert first.shape == (2, 4, 3) and np.abs(first).max() <= 1
  np.testing.assert_array_equal(first[1], second[0])
  assert not np.array_equal(first[0], first[1])


def test_the_expert_asks_each_slots_environment_at_every_step():
  environments = [Counter(), Counter()]
  list(run_episodes(environments, [3, 5], ExpertPolicy(environments)))
  for environment, steps in zip(environments, (3, 5), strict=True):
    np.testing.assert_allclose(environment.taken, 0.1 * np.arange(steps), atol=1e-6)
