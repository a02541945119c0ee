"""The GPU kernels on a CPU: interpreted for their numbers, and lowered to Triton."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import check, chips
from pallas_kernels.dispatch import Unsupported
from pallas_kernels.gated_delta import pallas_gpu
from pallas_kernels.gated_delta.pallas_gpu import Tiles, candidates
from tests.pallas_kernels.gated_delta.base import GatedDeltaTest


class TestPallasGpu(GatedDeltaTest):
  fn = staticmethod(functools.partial(pallas_gpu.gated_delta, tiles=Tiles(columns=16, rows=16), interpret=True))
  key, value = 32, 32


@pytest.mark.parametrize("tokens", [128, 100])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_lowers_to_triton(dtype, tokens):
  """At the released heads, with and without a ragged end."""
  shapes = [(1, tokens, 2, 256)] * 2 + [(1, tokens, 2, 512)] + [(1, tokens, 2)] * 2 + [(1, 2, 256, 512)]
  inputs = [jax.ShapeDtypeStruct(s, dtype if i < 3 else jnp.float32) for i, s in enumerate(shapes)]

  def gradient(*inputs):
    outputs, pull_back = jax.vjp(pallas_gpu.gated_delta, *inputs)
    return pull_back(outputs)

  with check.pretend(chips.CHIPS["sm90"]):
    lowered = jax.jit(gradient).trace(*inputs).lower(lowering_platforms=("cuda",)).as_text()
  kernels = ("prepare", "walk", "walk_back", "gradients")
  assert [lowered.count(f'name = "gated_delta_{kernel}"') for kernel in kernels] == [1, 2, 1, 1]


@pytest.mark.parametrize(
  ("key", "value", "dtype", "message"),
  [
    (96, 64, np.float32, "K is 96; allowed: powers of two from 16 to 256"),
    (512, 64, np.float32, "K is 512; allowed: powers of two from 16 to 256"),
    (64, 96, np.float32, "V is 96; allowed: powers of two from 16"),
    (64, 64, np.float16, "dtype is float16; allowed: float32, bfloat16"),
  ],
)
def test_what_it_cannot_do_is_refused(key, value, dtype, message):
  shapes = [(1, 2, 1, key)] * 2 + [(1, 2, 1, value)] + [(1, 2, 1)] * 2
  with pytest.raises(Unsupported, match=message):
    jax.eval_shape(pallas_gpu.gated_delta, *(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes))


@pytest.mark.parametrize(("capability", "most"), [("8.0", 163), ("8.9", 99), ("9.0", 227)])
def test_tiles_fit_the_gpu_that_is_there(capability, most, monkeypatch):
  device = SimpleNamespace(compute_capability=capability, device_kind="a GPU")
  monkeypatch.setattr(jax, "devices", lambda: [device])
  sizes = [pallas_gpu.on_chip_bytes(x, 256, 512, jnp.bfloat16) for x in candidates(20, 256, 512, jnp.bfloat16)]
  assert sizes and most // 2 << 10 < max(sizes) <= most << 10


def test_a_head_that_does_not_fit_the_gpu_is_refused(monkeypatch):
  monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(compute_capability="8.0", device_kind="a GPU")])
  shapes = [(1, 2, 1, 256)] * 2 + [(1, 2, 1, 512)] + [(1, 2, 1)] * 2
  with pytest.raises(Unsupported, match="K is 256 in float32; allowed: what fits into shared memory"):
    jax.eval_shape(pallas_gpu.gated_delta, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
