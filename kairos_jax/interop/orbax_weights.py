"""A model's parameters as an Orbax checkpoint, a tree of arrays, read and written one array after the other.

Orbax itself writes and restores whole trees, which many devices do in shards; one host that has not the memory for all
of a model reads and writes the arrays at their places, as Orbax lays them out (OCDBT, Zarr).
"""

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from flax.traverse_util import flatten_dict, unflatten_dict

from kairos_jax import locations
from kairos_jax.errors import KairosError
from kairos_jax.interop.stream_writer import BUFFER, Slot, partial_of

FOLDER = "weights"  # in a saved model's folder


class Arrays(Mapping[str, np.ndarray]):
  """The arrays of a checkpoint by their "/"-joined names, each read when it is asked for.

  Attributes:
    found: shape and type by name.

  Raises:
    KairosError: on construction, the checkpoint is not readable.
  """

  def __init__(self, path: Path):
    self._path = path
    try:
      tree = ocp.PyTreeCheckpointHandler().metadata(path.absolute()).tree
      self.found = {name: Slot(np.dtype(x.dtype), tuple(x.shape)) for name, x in flatten_dict(tree, sep="/").items()}
    except Exception as error:  # whatever the readers of Orbax and TensorStore raise
      raise KairosError(f"{path} is not a readable checkpoint: {' '.join(str(error).split())[:200]}") from None

  def __getitem__(self, name: str) -> np.ndarray:
    return np.asarray(_open(self._path, name).read().result())

  def row(self, name: str, row: int) -> np.ndarray:
    """One entry of the first axis."""
    return np.asarray(_open(self._path, name)[row].read().result())

  def __iter__(self) -> Iterator[str]:
    return iter(self.found)

  def __len__(self) -> int:
    return len(self.found)


class OrbaxWriter:
  """A checkpoint at `path`, in chunks of no more than the buffer; see `stream_writer.Writer`."""

  def __init__(self, path: Path, slots: Mapping[str, Slot], resume: bool):
    self._path, self._slots, self._partial = path, slots, partial_of(path)
    self._synced: set[Path] = set()
    if not resume:
      shutil.rmtree(self._partial, ignore_errors=True)
      # Orbax writes the tree, of numbers in the place of the arrays, which are then put in theirs.
      hollow = unflatten_dict({name: np.zeros((), np.uint8) for name in slots}, sep="/")
      with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(self._partial.absolute(), args=ocp.args.PyTreeSave(hollow))
      for name, slot in slots.items():
        _open(self._partial, name, slot)

  def write(self, name: str, values: np.ndarray, row: int | None = None) -> None:
    slot = self._slots[name]
    array = _open(self._partial, name)
    target = array if row is None else array[row]
    if not values.ndim:
      target.write(values.astype(slot.dtype)).result()
      return
    rows = _chunks(slot)[0 if row is None else 1]
    for start in range(0, len(values), rows):
      piece = np.ascontiguousarray(values[start : start + rows], slot.dtype)
      target[start : start + len(piece)].write(piece).result()

  def sync(self) -> None:
    """Files of data are never changed once they are written."""
    for path in self._partial.rglob("*"):
      if path not in self._synced:
        locations.sync(path)
        if path.parent.name == "d":
          self._synced.add(path)

  def finish(self) -> None:
    os.replace(self._partial, self._path)


def _open(path: Path, name: str, slot: Slot | None = None) -> Any:
  """An array of the checkpoint, made anew where `slot` says what it is."""
  # A commit for each chunk: they are brought to the disk together, by `sync`.
  base = {"driver": "file", "path": f"{path.absolute()}/", "file_io_sync": False}
  spec: dict[str, Any] = {
    "driver": "zarr",
    "kvstore": {"driver": "ocdbt", "base": base, "path": name.replace("/", ".") + "/"},
  }
  if slot is None:
    return tensorstore.open(spec, open=True).result()
  spec["metadata"] = {"shape": slot.shape, "chunks": _chunks(slot), "compressor": None}
  return tensorstore.open(spec, dtype=tensorstore.dtype(slot.dtype), create=True, delete_existing=True).result()


def _chunks(slot: Slot) -> tuple[int, ...]:
  """One row of groups each, and so many of the next axis as fit the buffer."""
  if len(slot.shape) < 2:
    return tuple(max(1, n) for n in slot.shape)
  of_row = slot.dtype.itemsize * math.prod(slot.shape[2:])
  return (1, max(1, min(slot.shape[1], BUFFER // max(1, of_row))), *slot.shape[2:])
