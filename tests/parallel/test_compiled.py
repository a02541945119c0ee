"""The sharded operations with their Mosaic kernels, compiled for a v5e of eight chips that is not here."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kairos_jax.planning import topology
from pallas_kernels.gated_delta import gated_delta
from pallas_kernels.window_attention import MaskRule, window_attention

pytestmark = [
  pytest.mark.tpu_backend,
  pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"),
]


@functools.cache
def mesh():
  found = topology.find("v5e:2x4").devices
  return Mesh(np.array(found).reshape(2, 4), ("data", "seq"), axis_types=(AxisType.Auto,) * 2)


def compiled(fn, *shapes):
  """The program of the gradients, all arrays cut by clip and time."""
  lie = NamedSharding(mesh(), PartitionSpec("data", "seq"))
  arrays = [jax.ShapeDtypeStruct(shape, dtype, sharding=lie) for shape, dtype in shapes]
  loss = lambda *inputs: jnp.sum(jax.tree.leaves(fn(*inputs))[0].astype(jnp.float32))  # noqa: E731
  with jax.set_mesh(mesh()):
    gradient = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(arrays)))))
    return gradient.trace(*arrays).lower().compile().as_text()


def test_delta_rule():
  wide, gate = ((2, 1024, 2, 128), jnp.bfloat16), ((2, 1024, 2), jnp.float32)
  text = compiled(gated_delta, wide, wide, wide, gate, gate)
  assert text.count('custom_call_target="tpu_custom_call"') >= 3
  assert "collective-permute" in text and "all-gather" not in text and "all-to-all" not in text


def test_window_attention():
  clip = ((2, 16, 256, 2, 128), jnp.bfloat16)
  text = compiled(lambda q, k, v: window_attention(q, k, v, MaskRule(3)), clip, clip, clip)
  assert text.count('custom_call_target="tpu_custom_call"') >= 3
  assert "collective-permute" in text and "all-gather" not in text and "all-to-all" not in text
