import numpy as np
import pytest

from pallas_kernels.gated_delta import gated_delta
from tests.pallas_kernels.gated_delta.base import draw


@pytest.mark.parametrize("index", range(5), ids=["q", "k", "v", "log_decay", "beta"])
def test_shapes_that_do_not_agree_are_refused(index):
  inputs = list(draw(4)[:5])
  inputs[index] = inputs[index][:, :3]
  with pytest.raises(ValueError, match="must agree"):
    gated_delta(*inputs)


def test_unknown_implementation_is_refused():
  with pytest.raises(ValueError, match="'cuda'; allowed: .*reference"):
    gated_delta(*(np.zeros_like(x) for x in draw(4)), implementation="cuda")
