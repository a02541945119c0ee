import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from pallas_kernels import check, chips
from pallas_kernels.dispatch import Unsupported
from pallas_kernels.window_attention import MaskRule, Span, pallas_gpu, reference
from pallas_kernels.window_attention.pallas_gpu import Tiles
from tests.pallas_kernels.window_attention.base import WindowAttentionTest, assert_gradients, draw


def run(function, tokens, *args, **kwargs):
  """In blocks of several small frames, or in small pieces of a large one."""
  block = max(2, pl.next_power_of_2(tokens) // 8)
  return function(*args, tiles=Tiles(2 * block, block), interpret=True, **kwargs)


class TestPallasGpu(WindowAttentionTest):
  attend = staticmethod(lambda q, *args, **kwargs: run(pallas_gpu.window_attention, q.shape[2], q, *args, **kwargs))
  act = staticmethod(lambda *x, **kwargs: run(pallas_gpu.action_attention, x[-1].shape[2], *x, **kwargs))

  @pytest.mark.parametrize(
    "rule", [MaskRule(2, 2, all_see_history=True), MaskRule(1, 2, unit="token")], ids=["frame", "token"]
  )
  def test_gradients_of_pieces(self, rule):
    """Of frames that no number of blocks fills."""
    past, span = (0, Span()) if rule.unit == "token" else (1, Span(2, stop=np.array([4, 5])))
    assert_gradients(self.attend, reference.window_attention, draw(4, past, tokens=19), "qkv", rule=rule, span=span)


@pytest.mark.parametrize("rule", [MaskRule(3, 4), MaskRule(3, unit="token")], ids=["frame level", "token level"])
@pytest.mark.parametrize("tokens", [48, 1560])
def test_lowers_to_triton(rule, tokens):
  """Three kernels, with no GPU here."""
  x = jax.ShapeDtypeStruct((1, 21, tokens, 20, 128), jnp.bfloat16)
  span = Span(np.array([1]), np.array([0]), np.array([21]))

  def gradients(q, k, v):
    out, pull_back = jax.vjp(lambda *x: pallas_gpu.window_attention(*x, rule, span), q, k, v)
    return pull_back(out)

  with check.pretend(chips.CHIPS["sm90"]):
    lowered = jax.jit(gradients).trace(x, x, x).lower(lowering_platforms=("cuda",))
  assert lowered.as_text().count("__gpu$xla.gpu.triton") == 3


def test_wide_heads_are_refused():
  x = jnp.zeros((1, 2, 2, 1, 256))
  with pytest.raises(Unsupported, match="head size is 256"):
    pallas_gpu.window_attention(x, x, x, MaskRule(), Span())


def test_other_dtypes_are_refused():
  with pytest.raises(Unsupported, match="dtype is float16"):
    pallas_gpu.window_attention(*(x.astype(np.float16) for x in draw(2)), MaskRule(), Span())
