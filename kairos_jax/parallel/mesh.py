"""The device mesh and where arrays lie on it: batches split over "data", large parameters split as in FSDP."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

_MIN_SHARDED_BYTES = 2**20  # below 1 MiB an all-gather costs more than the memory it saves


def make_mesh() -> Mesh:
  """Returns a one-dimensional mesh over all devices of all processes, with axis "data"."""
  return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Splits the leading (batch) axis over the devices; the other axes stay whole."""
  return NamedSharding(mesh, PartitionSpec("data"))


def fsdp_sharding(mesh: Mesh, tree: PyTree) -> PyTree[NamedSharding]:
  """Splits every leaf above 1 MiB along its largest divisible axis and replicates the rest.

  Args:
    mesh: a mesh with axis "data".
    tree: arrays or ShapeDtypeStructs.

  Returns:
    The same tree with a NamedSharding at each leaf.
  """
  devices = mesh.shape["data"]

  def rule(leaf) -> NamedSharding:
    axes = [axis for axis, size in enumerate(leaf.shape) if size % devices == 0]
    if leaf.size * leaf.dtype.itemsize <= _MIN_SHARDED_BYTES or not axes:
      return NamedSharding(mesh, PartitionSpec())
    widest = max(axes, key=lambda axis: leaf.shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * widest, "data"))

  return jax.tree.map(rule, tree)
