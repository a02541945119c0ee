"""Passes of the autoencoder compiled for absent chips, and how their work is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kairos_jax import assembly
from kairos_jax.planning import autoencoder, work
from pallas_kernels import check

SMALL = dict(kind="wan", base=8, multipliers=(1, 2), blocks=1, time_halvings=1)


def test_work_is_that_of_convolutions_and_products_by_their_turns():
  def program(kernel, square, x):
    def turn(x, _):
      y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
      y = jax.lax.platform_dependent(y, cpu=jnp.sin, default=jnp.cos)
      return jax.jit(jnp.dot)(y, square), None

    return jax.lax.scan(turn, x, length=5)[0]

  kernel, square, x = (
    np.zeros((3, 5, 4, 6), np.float32),
    np.zeros((6, 4), np.float32),
    np.zeros((2, 8, 7, 4), np.float32),
  )
  pixels = 2 * 8 * 7
  flops, moved = work.of_program(jax.make_jaxpr(program)(kernel, square, x).jaxpr)
  assert flops == 5 * 2 * pixels * (15 * 4 * 6 + 6 * 4)
  assert moved == 5 * 4 * (2 * pixels * (4 + 6) + kernel.size + square.size)


def test_a_longer_video_is_so_many_more_turns():
  codec = assembly.make_codec(SMALL)

  def counted(frames):
    traced = autoencoder._trace(codec, "decode", frames, (16, 24), None)
    return np.array(work.of_program(traced.jaxpr.jaxpr))

  one, three, nine = counted(1), counted(3), counted(9)
  np.testing.assert_array_equal(nine - one, 4 * (three - one))


@pytest.mark.slow
@pytest.mark.tpu_backend
@pytest.mark.skipif(check.missing("v5e") is not None, reason="libtpu is not installed")
def test_a_small_pass_compiles_for_a_v5e():
  found = autoencoder.compile_pass("v5e", "encode", frames=5, size=(32, 48), codec=assembly.make_codec(SMALL))
  assert found.temporaries > 0 and found.outputs > 0 and found.roofline_seconds >= found.flops / 197e12
