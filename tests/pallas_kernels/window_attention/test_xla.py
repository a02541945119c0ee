import pytest

from pallas_kernels.window_attention import Rule, reference, xla
from tests.pallas_kernels.window_attention.base import WindowAttentionTest, assert_linear


class TestXla(WindowAttentionTest):
  attend = staticmethod(xla.window_attention)
  act = staticmethod(xla.action_attention)

  @pytest.mark.parametrize(
    ("rule", "history"),
    [
      (Rule(3), 0),
      (Rule(3, 4), 0),
      (Rule(3, 4, all_see_history=True), 3),
      (Rule(3, unit="token"), 0),
      (Rule(3, 4, unit="token"), 0),
    ],
    ids=["plain", "dilated", "history that everyone sees", "token level", "token level, dilated"],
  )
  def test_cost_is_linear(self, rule, history):
    assert_linear(xla.window_attention, rule, history)


def test_the_measure_can_tell():
  with pytest.raises(AssertionError):
    assert_linear(reference.window_attention, Rule(3))
