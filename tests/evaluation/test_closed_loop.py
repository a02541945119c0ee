"""The loop's bookkeeping, on an environment that counts and policies that keep what they were told."""

import dataclasses

import numpy as np
import pytest

from kairos_jax import seeds as seeds_lib
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.closed_loop import run_episodes
from tests.evaluation.counter import Counter, brightness


@dataclasses.dataclass
class Told:
  """Answers with so many actions; the first number of each is the slot."""

  actions: int = 2
  calls: list = dataclasses.field(default_factory=list)

  def reset(self, slots):
    self.calls.append(("reset", list(slots)))

  def act(self, slots, observations, seeds):
    self.calls.append((list(slots), [[brightness(o) for o in seen] for seen in observations], list(seeds)))
    return np.stack([np.full((self.actions, 3), slot, float) for slot in slots])


def test_an_episode_ends_in_its_time_and_the_next_one_takes_its_place():
  policy, environments = Told(), [Counter(), Counter()]
  episodes = list(run_episodes(environments, [3, 5, 4], policy))  # a seed is the length here
  assert [(e.seed, e.steps) for e in episodes] == [(3, 3), (5, 5), (4, 4)]
  assert [e.video()[:, 0, 0, 0].tolist() for e in episodes] == [list(range(n + 1)) for n in (3, 5, 4)]
  told = [call[:2] for call in policy.calls]
  assert told == [
    ("reset", [0, 1]),
    ([0, 1], [[0], [0]]),
    ([0, 1], [[1, 2], [1, 2]]),
    ("reset", [0]),
    ([0], [[0]]),  # at another moment than slot 1, so asked by itself
    ([1], [[3, 4]]),
    ([0], [[1, 2]]),
  ]


def test_the_noise_of_a_call_is_the_episodes_own():
  alone, together = Told(), Told()
  list(run_episodes([Counter()], [5], alone))
  list(run_episodes([Counter(), Counter(), Counter()], [3, 5, 4], together))
  mine = [
    seeds[slots.index(1)] for slots, _, *rest in together.calls if slots != "reset" and 1 in slots for seeds in rest
  ]
  assert mine == [seeds[0] for slots, _, *rest in alone.calls if slots != "reset" for seeds in rest]
  assert mine == [seeds_lib.derive(5, "policy", call) for call in range(3)]


def test_success_is_the_environments_and_actions_reach_their_own():
  environments = [Counter(), Counter(), Counter()]
  episodes = list(run_episodes(environments, [3, 9, 4], Told(actions=3)))
  assert {e.seed: e.success for e in episodes} == {3: False, 9: True, 4: False}  # odd slots succeed, see Counter
  assert [set(environment.taken) for environment in environments] == [{0.0}, {1.0}, {2.0}]


def test_more_environments_than_episodes():
  assert [e.seed for e in run_episodes([Counter(), Counter(), Counter()], [2], Told())] == [2]
  assert list(run_episodes([Counter()], [], Told())) == []
  with pytest.raises(KairosError, match="there is no environment"):
    list(run_episodes([], [2], Told()))
