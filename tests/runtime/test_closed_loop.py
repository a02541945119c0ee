"""The loop's bookkeeping, on an environment that counts and a model that keeps what it was told."""

import dataclasses
import types

import numpy as np

from kairos_jax import seeds
from kairos_jax.codec import PcaCodec
from kairos_jax.runtime.closed_loop import model_policy, random_policy, run_episodes


@dataclasses.dataclass
class Counter:
  """Shows how many steps it took; over after `last` of them, a success if its actions never fell below 0."""

  last: int
  step_count: int = 0
  success: bool = True

  embodiment = "slide_arm"

  @property
  def images(self):
    return {"front": np.full((2, 2, 3), self.step_count, np.uint8)}

  @property
  def state(self):
    return np.full(3, self.step_count, np.float32)

  def reset(self, seed):
    self.step_count, self.success = 0, seed >= 0
    return self

  def step(self, action):
    assert self.step_count < self.last, "stepped after its end"
    self.step_count += 1
    self.success &= bool((action >= 0).all())
    return self, self.step_count == self.last, self.success and self.step_count == self.last


class Model:
  """Stands in for a world model: answers with chunks longer than are used."""

  def __init__(self, clip_frames=21):
    self.calls = []
    self.saved = types.SimpleNamespace(clip_frames=clip_frames)
    self.codec = PcaCodec()

  def prefill(self, frames, instruction):
    self.calls.append(("prefill", frames[:, :, 0, 0, 0].tolist(), instruction))
    return 1

  def extend(self, stream, frames):
    self.calls.append(("extend", frames[:, :, 0, 0, 0].tolist(), stream))
    return stream + 1

  def act(self, stream, states, *, seed, steps):
    self.calls.append(("act", stream, states[:, 0].tolist(), seed, steps))
    return np.zeros((len(states), 7, 3))


def test_episodes_end_each_in_its_time_and_keep_their_last_frame():
  seen = []

  def policy(frames, states):
    seen.append(frames[:, :, 0, 0, 0].tolist())
    return np.zeros((len(frames), 2, 3))

  shares = []
  outcome = run_episodes([Counter(3), Counter(5), Counter(4)], [0, -1, 0], policy, shares.append)
  assert outcome.success.tolist() == [True, False, True] and abs(outcome.rate - 2 / 3) < 1e-6
  assert [f[:, 0, 0, 0].tolist() for f in outcome.frames] == [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4]]
  assert seen == [[[0], [0], [0]], [[1, 2], [1, 2], [1, 2]], [[3, 3], [3, 4], [3, 4]]]
  np.testing.assert_allclose(shares, [0, 2 / 3, 1])


def test_model_policy_remembers_every_frame_and_plans_anew_after_a_latent_frame():
  model = Model()
  run_episodes([Counter(8)], [0], model_policy(model, "count", steps=3, seed=10))
  assert model.calls == [
    ("prefill", [[0]], "count"),
    ("act", 1, [0.0], seeds.derive(10, "policy", 1), 3),
    ("extend", [[1, 2, 3, 4]], 1),
    ("act", 2, [4.0], seeds.derive(10, "policy", 2), 3),
  ]


def test_model_policy_begins_anew_beyond_the_histories_it_was_trained_on():
  model = Model(clip_frames=9)  # two latent frames of history, and one to come
  run_episodes([Counter(16)], [0], model_policy(model, "count"))
  kinds = [(call[0], call[1]) for call in model.calls if call[0] != "act"]
  assert kinds == [("prefill", [[0]]), ("extend", [[1, 2, 3, 4]]), ("prefill", [[8]]), ("extend", [[9, 10, 11, 12]])]


def test_blind_policy_sees_black():
  model = Model()
  run_episodes([Counter(8)], [0], model_policy(model, "count", blind=True))
  assert [call[1] for call in model.calls if call[0] != "act"] == [[[0]], [[0, 0, 0, 0]]]
  assert [call[2] for call in model.calls if call[0] == "act"] == [[0.0], [4.0]]  # its joints it still feels


def test_random_policy_is_seeded_and_within_the_limits():
  states = np.zeros((2, 3))
  first, second = (random_policy(3, 4, seed=1)(None, states) for _ in range(2))
  np.testing.assert_array_equal(first, second)
  assert first.shape == (2, 4, 3) and np.abs(first).max() <= 1 and not np.array_equal(first[0], first[1])
