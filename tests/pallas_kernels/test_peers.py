"""Other libraries: named with their install command where absent, and run on our arrays where present."""

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import bench, peers, workload
from tests.pallas_kernels import toy


def test_absent():
  assert peers.absent("jax") is None
  assert peers.absent("fable", "pip install fable") == "fable is not installed; it comes with: pip install fable"
  assert peers.absent("fable").endswith('pip install "kairos-jax[bench]"')


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("with_gradients", [False, True])
def test_torch_computes_the_same(dtype, with_gradients):
  pytest.importorskip("torch", reason="no torch; it comes with the extra [bench]")
  case = toy.Case(32, dtype)
  inputs, xla = toy.inputs(case, jax.random.key(0)), toy.implementations(case)["xla"]
  cotangents = workload.cotangents(xla, inputs, jax.random.key(1)) if with_gradients else None
  want = bench.jax_runner(xla)(inputs, cotangents)()
  got = peers.torch_runner(lambda x, w: (x + x @ w,))(inputs, cotangents)()
  assert len(got) == (2 if with_gradients else 1)
  assert bench.relative_error(got, want) < (1e-5 if dtype == jnp.float32 else 2e-2)
