import functools

import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.dispatch import Unsupported
from pallas_kernels.window_attention import MaskRule, Span, pallas_tpu
from pallas_kernels.window_attention.pallas_tpu import ON_CHIP_BYTES, Tiles, candidates, on_chip_bytes
from tests.pallas_kernels.window_attention.base import (
  BATCH,
  TOKENS,
  WindowAttentionTest,
  assert_relative,
  dense,
  draw,
  gradients,
  single,
)


def pieces(tokens):
  """Blocks that are a whole frame, and half of one."""
  return Tiles(tokens // 2 if tokens % 2 == 0 else tokens, tokens)


def several(tokens):
  """Blocks of more than a frame, that end where no frame ends."""
  return Tiles(tokens + 1, 2 * tokens + 1)


def attend_by(cut):
  return staticmethod(lambda q, *args, **kwargs: _run(pallas_tpu.window_attention, cut(q.shape[2]), q, *args, **kwargs))


def act_by(cut):
  return staticmethod(
    lambda *inputs, **kwargs: _run(pallas_tpu.action_attention, cut(inputs[-1].shape[2]), *inputs, **kwargs)
  )


def _run(function, tiles, *args, **kwargs):
  return function(*args, tiles=tiles, interpret=True, **kwargs)


class TestPieces(WindowAttentionTest):
  attend, act = attend_by(pieces), act_by(pieces)


class TestSeveral(WindowAttentionTest):
  attend, act = attend_by(several), act_by(several)


@pytest.mark.parametrize(("tokens", "tiles"), [(40, Tiles(256, 128)), (208, Tiles(208, 208))])
def test_a_large_block_is_walked_in_parts(tokens, tiles):
  assert len(pallas_tpu._parts(tiles.stay)) == 2
  inputs, rule = draw(9, tokens=tokens), MaskRule(2)
  want, _ = dense(*inputs, rule, [1] * BATCH, [0] * BATCH, [9] * BATCH)
  got = pallas_tpu.window_attention(*single(inputs), rule, Span(1), tiles=tiles, interpret=True)
  assert_relative(got, want, 1e-5)


@pytest.mark.parametrize(("rows", "part"), [(520, 104), (256, 128), (64, 64), (41, 41), (136, 136), (8, 8)])
def test_parts_cover_a_block(rows, part):
  parts = pallas_tpu._parts(rows)
  assert parts[0] == slice(0, part) and parts[-1].stop == rows


@pytest.mark.parametrize("tiles", [pieces(TOKENS), several(TOKENS)], ids=["pieces", "several"])
def test_on_a_simulated_chip(tiles):
  """Memory that nobody wrote is NaN there, and a read that races with a write is found."""
  from jax._src.pallas.mosaic.interpret import interpret_pallas_call as simulator

  chip = pltpu.InterpretParams(uninitialized_memory="nan", detect_races=True)
  attend = functools.partial(pallas_tpu.window_attention, tiles=tiles, interpret=chip)
  inputs, rule = draw(3), MaskRule(2)
  want, _ = dense(*inputs, rule, [1] * BATCH, [0] * BATCH, [3] * BATCH)
  assert_relative(attend(*single(inputs), rule, Span(1)), want, 1e-5)
  for x in gradients(attend, single(inputs), np.ones_like(want), rule=rule, span=Span(1)):
    assert np.isfinite(x).all()
  assert not simulator.races.races_found


def test_tiles_fit_and_divide_a_frame():
  for dtype in (jnp.bfloat16, jnp.float32):
    tiles = candidates(1560, 128, dtype)
    assert all(on_chip_bytes(x, 128, dtype) <= ON_CHIP_BYTES for x in tiles)
    assert 1560 % tiles[0].stay == 1560 % tiles[0].stream == 0


def test_other_dtypes_are_refused():
  with pytest.raises(Unsupported, match="dtype is float16"):
    pallas_tpu.window_attention(*(x.astype(np.float16) for x in draw(2)), MaskRule(), Span())


def test_heads_that_do_not_fit_are_refused():
  x = jnp.zeros((1, 1, 8, 1, 2048))
  with pytest.raises(Unsupported, match="head size is 2048"):
    pallas_tpu.window_attention(x, x, x, MaskRule(), Span())
