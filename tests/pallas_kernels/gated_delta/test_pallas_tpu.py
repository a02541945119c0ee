"""The TPU kernels on a CPU: interpreted for their numbers, simulated for memory and races."""

import functools

import jax
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.dispatch import Unsupported
from pallas_kernels.gated_delta import pallas_tpu
from pallas_kernels.gated_delta.pallas_tpu import Tiles
from tests.pallas_kernels.gated_delta.base import (
  NAMES,
  GatedDeltaTest,
  assert_relative,
  draw,
  gradients,
  reference_gradients,
  single,
  token_by_token,
)


class TestPallasTpu(GatedDeltaTest):
  fn = staticmethod(functools.partial(pallas_tpu.gated_delta, tiles=Tiles(64, 1, 2), interpret=True))
  key, value = 128, 128

  def test_chunks_of_one_block(self):
    inputs = self.draw(40)
    fn = functools.partial(pallas_tpu.gated_delta, tiles=Tiles(16, 2, 2), interpret=True)
    for got, want in zip(gradients(fn, single(inputs)), reference_gradients(inputs), strict=True):
      assert_relative(got, want, 1e-4)


def test_on_a_simulated_chip():
  """Memory that nobody wrote is NaN there, and a read that races with a write is found."""
  from jax._src.pallas.mosaic.interpret import interpret_pallas_call as simulator

  chip = pltpu.InterpretParams(uninitialized_memory="nan", detect_races=True)
  fn = functools.partial(pallas_tpu.gated_delta, tiles=Tiles(16, 1, 2), interpret=chip)
  inputs = draw(70, 128, 128)  # the last chunk is ragged, and the last segment half empty
  for got, want in zip(fn(*single(inputs)), token_by_token(inputs), strict=True):
    assert_relative(got, want, 1e-5)
  for name, got, want in zip(NAMES, gradients(fn, single(inputs)), reference_gradients(inputs), strict=True):
    assert_relative(got, want, 1e-4, name)
  assert not simulator.races.races_found


@pytest.mark.parametrize(
  ("key", "value", "dtype", "message"),
  [
    (64, 128, np.float32, "K, V are 64, 128; allowed: multiples of 128"),
    (128, 192, np.float32, "K, V are 128, 192; allowed: multiples of 128"),
    (128, 128, np.float16, "dtype is float16; allowed: float32, bfloat16"),
    (4096, 4096, np.float32, "K x V is 4096 x 4096; allowed: what fits into 48 MiB"),
  ],
)
def test_what_it_cannot_do_is_refused(key, value, dtype, message):
  shapes = [(1, 2, 1, key)] * 2 + [(1, 2, 1, value)] + [(1, 2, 1)] * 2
  with pytest.raises(Unsupported, match=message):
    jax.eval_shape(pallas_tpu.gated_delta, *(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("heads", "key", "value"), [(20, 256, 512), (3, 128, 128), (7, 512, 1024)])
def test_tiles_fit_and_divide_the_heads(heads, key, value, dtype):
  tilings = pallas_tpu.candidates(heads, key, value, dtype)
  assert tilings
  for tiles in tilings:
    assert heads % tiles.heads == 0 and pallas_tpu.on_chip_bytes(tiles, key, value, dtype) <= pallas_tpu.VMEM_BYTES
