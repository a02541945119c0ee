import functools

import jax
import numpy as np

from pallas_kernels.gated_delta import xla
from tests.pallas_kernels.cost import cost
from tests.pallas_kernels.gated_delta.base import BATCH, HEADS, GatedDeltaTest, assert_linear, single


class TestXla(GatedDeltaTest):
  fn = staticmethod(xla.gated_delta)

  def test_chunk_size_does_not_matter(self):
    inputs = single(self.draw(65))
    reads, state = jax.jit(functools.partial(xla.gated_delta, chunk=16))(*inputs)
    want, final = self.run(*inputs)
    np.testing.assert_allclose(reads, want, atol=1e-5)
    np.testing.assert_allclose(state, final, atol=1e-5)

  def test_cost_is_linear(self):
    assert_linear(self.fn)

  def test_a_single_token_costs_two_reads_of_the_memory(self):
    found = cost(self.fn, *single(self.draw(1)))
    assert found.products == 2 * BATCH * HEADS * self.key * self.value
    assert found.largest == BATCH * HEADS * self.key * self.value
