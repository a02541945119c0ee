from pallas_kernels.gated_delta import reference
from tests.pallas_kernels.gated_delta.base import GatedDeltaTest, assert_linear


class TestReference(GatedDeltaTest):
  fn = staticmethod(reference.gated_delta)

  def test_cost_is_linear(self):
    assert_linear(self.fn)
