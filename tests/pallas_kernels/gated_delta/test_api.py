import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.dispatch import Unsupported
from pallas_kernels.gated_delta import gated_delta
from tests.pallas_kernels.gated_delta.base import draw, single


@pytest.mark.mistakes
@pytest.mark.parametrize("index", range(5), ids=["q", "k", "v", "log_decay", "beta"])
def test_shapes_that_do_not_agree_are_refused(index):
  inputs = list(draw(4)[:5])
  inputs[index] = inputs[index][:, :3]
  with pytest.raises(ValueError, match="must agree"):
    gated_delta(*inputs)


def test_unknown_implementation_is_refused():
  with pytest.raises(Unsupported, match="'cuda'; allowed: .*reference"):
    gated_delta(*(np.zeros_like(x) for x in draw(4)), implementation="cuda")


def program(tokens, key, value):
  """Forward and backward in one."""

  def loss(*inputs):
    return sum(jnp.sum(x) for x in gated_delta(*inputs))

  return jax.jit(jax.grad(loss, argnums=range(6))).trace(*single(draw(tokens, key, value)))


@pytest.mark.parametrize(("tokens", "kernels"), [(1, 0), (70, 2)])
def test_a_cpu_lowers_the_kernels_for_a_tpu_but_not_for_a_single_token(tokens, kernels):
  traced = program(tokens, 128, 128)
  for platform, count in (("tpu", kernels), ("cpu", 0)):
    assert traced.lower(lowering_platforms=(platform,)).as_text().count("tpu_custom_call") == count


def test_what_a_kernel_refuses_runs_in_xla():
  text = program(70, 6, 5).lower(lowering_platforms=("tpu",)).as_text()
  assert "tpu_custom_call" not in text and "while" in text
