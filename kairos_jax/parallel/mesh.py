"""The device mesh of a run and how batches lie on it; `rules` says where parameters lie, `activations` all between."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kairos_jax.errors import KairosError
from pallas_kernels.layout import BATCH, GUIDANCE

AXES = ("data", "fsdp", "seq", "tensor")  # the outermost first: what is exchanged most often lies closest together


def make_mesh(
  *,
  data: int = 1,
  fsdp: int | None = None,
  seq: int = 1,
  tensor: int = 1,
  cfg: int = 1,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """All devices of all processes as one mesh of `AXES`, whose axes are all Auto (docs/design.md says why).

  Args:
    data: copies of the parameters; batches are cut. Between slices of a pod there is no other axis.
    fsdp: batches are cut, and parameters too; None takes the devices that the other axes leave.
    seq: the frames of a clip are cut, and parameters too.
    tensor: heads and hidden widths are cut.
    cfg: 2 where a guided sampler computes both contexts at once; an axis before all others, which 1 leaves out.
    devices: that make up the mesh; None: all there are.

  Raises:
    KairosError: the product of the axes is not the number of devices.
  """
  found = list(jax.devices() if devices is None else devices)
  others = cfg * data * seq * tensor
  sizes = dict(data=data, fsdp=max(len(found) // others, 1) if fsdp is None else fsdp, seq=seq, tensor=tensor)
  sizes = sizes if cfg == 1 else {GUIDANCE: cfg, **sizes}
  if math.prod(sizes.values()) != len(found):
    product = " x ".join(f"{name} {size}" for name, size in sizes.items())
    raise KairosError(
      f"config key mesh is {product} = {math.prod(sizes.values())}; allowed: a product of {len(found)}, the devices"
    )
  slices = len({getattr(device, "slice_index", None) for device in found})
  if data % slices:
    raise KairosError(f"config key mesh.data is {data}; allowed: a multiple of {slices}, the slices")
  shape = tuple(sizes.values())
  if slices > 1:
    within, between = {**sizes, "data": data // slices}, dict.fromkeys(sizes, 1) | {"data": slices}
    grid = mesh_utils.create_hybrid_device_mesh(tuple(within.values()), tuple(between.values()), devices=found)
  else:
    grid = mesh_utils.create_device_mesh(shape, devices=found, allow_split_physical_axes=True)
  return Mesh(np.asarray(grid), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def sampling_mesh(*, guided: bool) -> Mesh:
  """All devices for one video: they share its frames, half of them under each context if it is guided."""
  cfg = 2 if guided and jax.device_count() % 2 == 0 else 1
  return make_mesh(fsdp=1, seq=jax.device_count() // cfg, cfg=cfg)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Cuts the leading (batch) axis; the other axes stay whole."""
  return NamedSharding(mesh, PartitionSpec(_batch_axes(mesh)))


def batch_shards(mesh: Mesh) -> int:
  """Into how many shards a batch is cut."""
  return math.prod(mesh.shape[name] for name in _batch_axes(mesh))


def check_batch(mesh: Mesh, size: int, parts: int = 1, *, key: str = "train.batch_size") -> None:
  """That a batch can be cut into so many micro-batches for all devices.

  Args:
    mesh: whose devices share the batch.
    size: of the batch, over all processes.
    parts: micro-batches that are computed one after the other.
    key: of the config that says the size.

  Raises:
    KairosError: it cannot.
  """
  pieces = batch_shards(mesh) * parts
  if size % pieces:
    product = "mesh.data x mesh.fsdp" + (" x train.grad_accum_steps" if parts > 1 else "")
    raise KairosError(f"config key {key} is {size}; allowed: a multiple of {pieces}, {product}")


def reader(mesh: Mesh) -> tuple[int, int]:
  """Which share of each batch this process reads, and of how many.

  Processes whose devices differ along "seq" or "tensor" alone read the same clips.

  Raises:
    KairosError: the shards of this process are not neighbors.
  """
  shards = batch_shards(mesh)
  slices = batch_sharding(mesh).addressable_devices_indices_map((shards,)).values()
  rows = sorted({index[0].indices(shards)[0] for index in slices if index})
  if shards % len(rows) or rows != list(range(rows[0], rows[0] + len(rows))) or rows[0] % len(rows):
    raise KairosError(f"config key mesh: this process holds the shards {rows} of {shards}, which are no equal share")
  return rows[0] // len(rows), shards // len(rows)


def _batch_axes(mesh: Mesh) -> tuple[str, ...]:
  return tuple(name for name in mesh.axis_names if name in BATCH)
