"""From the loader's batches to the devices, and into the parts that are computed one after the other."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from kairos_jax.parallel.mesh import batch_sharding, check_batch, reader

Batch = dict[str, Any]  # arrays [B, ...], or pytrees of them


def to_devices(batch: Mapping[str, Any], mesh: Mesh, parts: int) -> Batch:
  """Sends numbers to the devices; strings stay on the host.

  Args:
    batch: this process's share, with "id", the record ids.
    mesh: whose devices share the batch.
    parts: into how many micro-batches it will be cut.

  Raises:
    KairosError: the batch of all processes cannot be cut into so many for all devices.
  """
  size = len(batch["id"]) * reader(mesh)[1]
  check_batch(mesh, size, parts)

  def send(x: np.ndarray) -> Array:
    return jax.make_array_from_process_local_data(batch_sharding(mesh), x, (size, *x.shape[1:]))

  return {name: jax.tree.map(send, value) for name, value in batch.items() if name != "id"}


def microbatches(batch: PyTree[Array], parts: int) -> PyTree[Array]:
  """[B, ...] -> [parts, B / parts, ...], interleaved so that each device of a sharded batch keeps its own rows."""
  return jax.tree.map(lambda x: x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch)
