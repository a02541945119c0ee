"""Success by delay: the scripts and the baselines that need no model."""

import pytest

from data_pipelines.simulate.delayed_cue_reach import DelayedCueReach, floors
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import delayed
from kairos_jax.evaluation.policies import ExpertPolicy, RandomPolicy


@pytest.fixture(scope="module")
def environments():
  return [DelayedCueReach(16, 4) for _ in range(4)]


def test_the_expert_succeeds_at_every_delay(environments):
  found = delayed.by_delay(ExpertPolicy(environments), environments, (0, 12), 6)
  assert {delay: rate.value for delay, rate in found.items()} == {0: 1.0, 12: 1.0}


def test_the_floor_of_random_actions_is_its_closed_form(environments):
  rate = delayed.by_delay(RandomPolicy(3, 4), environments, (0,), 80)[0]
  assert rate.low <= floors(4)["random"] <= rate.high


def test_nothing_asked_for(environments):
  for delays, episodes in (((), 3), ((0,), 0)):
    with pytest.raises(KairosError, match="at least 1 of each"):
      delayed.by_delay(RandomPolicy(3, 4), environments, delays, episodes)
