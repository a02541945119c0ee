import doctest
import itertools

import numpy as np
import pytest

from pallas_kernels.window_attention import MaskRule, joint_mask, visibility
from tests.pallas_kernels.window_attention.base import visible

FRAMES, TOKENS, ACTIONS, HISTORY = 7, 2, 3, 3


@pytest.mark.parametrize(
  "rule",
  [
    MaskRule(window_size, dilation, history_sees_future=future, causal_history=causal, all_see_history=everyone)
    for (window_size, dilation), future, causal, everyone in itertools.product(
      [(None, 1), (2, 1), (2, 3)], *[[False, True]] * 3
    )
  ],
  ids=lambda rule: (
    f"{rule.window_size}-{rule.dilation}-{rule.history_sees_future:d}{rule.causal_history:d}{rule.all_see_history:d}"
  ),
)
def test_mixture_mask(rule):
  """Video follows the rule and never sees an action; actions see all history and each other, and no future."""
  mask = np.asarray(joint_mask(rule, frames=FRAMES, tokens_per_frame=TOKENS, actions=ACTIONS, num_observed=HISTORY))
  video = FRAMES * TOKENS
  assert mask.shape == (video + ACTIONS, video + ACTIONS)
  for query, key in np.ndindex(video, video):
    want = visible(rule, query // TOKENS, key // TOKENS, HISTORY, 0, FRAMES)
    assert mask[query, key] == want, (query, key)
  assert not mask[:video, video:].any()
  assert mask[video:, video:].all()
  np.testing.assert_array_equal(mask[video:, :video], np.tile(np.arange(video) < HISTORY * TOKENS, (ACTIONS, 1)))


def test_pictures_in_the_docstrings_are_true():
  outcome = doctest.testmod(visibility)
  assert outcome.attempted >= 4 and not outcome.failed
