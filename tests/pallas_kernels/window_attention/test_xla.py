import pytest

from pallas_kernels.window_attention import MaskRule, reference, xla
from tests.pallas_kernels.window_attention.base import WindowAttentionTest, assert_linear


class TestXla(WindowAttentionTest):
  attend = staticmethod(xla.window_attention)
  act = staticmethod(xla.action_attention)

  @pytest.mark.parametrize(
    ("rule", "num_observed"),
    [
      (MaskRule(3), 0),
      (MaskRule(3, 4), 0),
      (MaskRule(3, 4, all_see_history=True), 3),
      (MaskRule(3, unit="token"), 0),
      (MaskRule(3, 4, unit="token"), 0),
    ],
    ids=["plain", "dilated", "history that everyone sees", "token level", "token level, dilated"],
  )
  def test_cost_is_linear(self, rule, num_observed):
    assert_linear(xla.window_attention, rule, num_observed)


def test_the_measure_can_tell():
  with pytest.raises(AssertionError):
    assert_linear(reference.window_attention, MaskRule(3))
