"""How an operation's arrays lie on the mesh of the program that it is part of: batch, time and heads, by axis name.

The mesh is the one that `jax.set_mesh` set when the program was traced, as the platform is the one it is lowered for. A
Pallas kernel cannot be partitioned by the compiler, so an operation cuts its own arrays with `jax.shard_map`.
"""

import math
from typing import NamedTuple

import jax
from jax.sharding import AxisType, PartitionSpec

GUIDANCE = "cfg"
BATCH = (GUIDANCE, "data", "fsdp")
TIME = "seq"
HEADS = "tensor"


class Layout(NamedTuple):
  """Which of the mesh's axes cut a call; () where none does.

  Attributes:
    batch, time, heads: names of axes, as a `PartitionSpec` takes them.
    devices: how many share the time axis.
  """

  batch: tuple[str, ...]
  time: tuple[str, ...]
  heads: tuple[str, ...]
  devices: int

  def spec(self, axes: str) -> PartitionSpec:
    """Of an array whose axes are named by a letter each: b(atch), t(ime), h(eads), and anything for a whole one."""
    names = {"b": self.batch, "t": self.time, "h": self.heads}
    return PartitionSpec(*(names.get(axis) or None for axis in axes))


def devices_along(axis: str) -> int:
  """Of the mesh in use; 1 without such an axis, or inside a `shard_map`."""
  mesh = jax.sharding.get_abstract_mesh()
  inside = any(kind == AxisType.Manual for kind in mesh.axis_types)
  return 1 if mesh.empty or inside else dict(mesh.shape).get(axis, 1)


def current(*, batch: int, heads: int, time: int | None = None) -> Layout | None:
  """How a call of these sizes lies on the mesh in use; None without a mesh, or inside a `shard_map`.

  An axis that does not divide its size does not cut it: the call is then the same on all devices along that axis.

  Args:
    batch, heads: sizes that may be cut.
    time: likewise; None leaves time whole.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1 or any(kind == AxisType.Manual for kind in mesh.axis_types):
    return None
  sizes = dict(mesh.shape)

  def cutting(names: tuple[str, ...], size: int | None) -> tuple[str, ...]:
    names = tuple(name for name in names if sizes.get(name, 1) > 1)
    return names if size is not None and size % math.prod(sizes[name] for name in names) == 0 else ()

  by_time = cutting((TIME,), time)
  return Layout(cutting(BATCH, batch), by_time, cutting((HEADS,), heads), sizes[TIME] if by_time else 1)
