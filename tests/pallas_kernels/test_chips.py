import pytest

from pallas_kernels import chips


@pytest.mark.parametrize(
  ("flops", "hbm_bytes", "want"),
  [(197e12, 0, 1.0), (0, 819e9, 1.0), (197e12, 2 * 819e9, 2.0), (3 * 197e12, 819e9, 3.0)],
)
def test_the_slower_of_arithmetic_and_traffic_is_waited_for(flops, hbm_bytes, want):
  assert chips.roofline_seconds(chips.CHIPS["v5e"], flops, hbm_bytes) == pytest.approx(want)
