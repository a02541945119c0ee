"""Writes the weights of a model piece by piece, and goes on where it was interrupted.

A file of weights is made at its full length at once; pieces then go to their places in any order. A journal beside it
says which of them are on the disk. `StreamWriter` writes safetensors; `orbax_weights` has one for Orbax checkpoints.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from kairos_jax import shards

BUFFER = 8 << 20  # bytes that are brought into the file's order at once
_SYNC_EVERY = 256 << 20  # bytes after which the journal may say that they are there


class Slot(NamedTuple):
  """What a tensor of the output will be."""

  dtype: np.dtype
  shape: tuple[int, ...]


@runtime_checkable
class Writer(Protocol):
  """Takes a tensor's values in pieces along its first axis."""

  def write(self, name: str, values: np.ndarray, row: int | None = None) -> None:
    """The tensor of this name, or the row of it; any strides, of the tensor's type or one that goes into it exactly."""

  def sync(self) -> None:
    """Returns once everything that was written is on the disk."""

  def finish(self) -> None:
    """Gives the output its name, after `sync`."""


class StreamWriter:
  """A safetensors file at `path`, called `path`.partial until it is whole."""

  def __init__(self, path: Path, slots: Mapping[str, Slot], resume: bool):
    self._path, self._slots = path, slots
    self._partial = partial_of(path)
    head, self._offsets = shards.header({name: (slot.dtype, slot.shape) for name, slot in slots.items()})
    if not resume:
      with open(self._partial, "wb") as file:
        file.write(head)
        file.truncate(len(head) + sum(slot.dtype.itemsize * math.prod(slot.shape) for slot in slots.values()))
    self._file = open(self._partial, "r+b", buffering=0)

  def write(self, name: str, values: np.ndarray, row: int | None = None) -> None:
    slot = self._slots[name]
    offset = self._offsets[name]
    if row is not None:
      offset += row * slot.dtype.itemsize * math.prod(slot.shape[1:])
    for piece in in_order(values, slot.dtype):
      os.pwrite(self._file.fileno(), memoryview(piece).cast("B"), offset)
      offset += piece.nbytes

  def sync(self) -> None:
    os.fdatasync(self._file.fileno())

  def finish(self) -> None:
    self._file.close()
    os.replace(self._partial, self._path)


def partial_of(path: Path) -> Path:
  """Where an output lies until it is whole."""
  return path.with_name(f"{path.name}.partial")


def in_order(values: np.ndarray, dtype: np.dtype) -> Iterator[np.ndarray]:
  """The bytes of the values in C order and of this type, in pieces of no more than the buffer."""
  if not values.ndim:
    values = values.reshape(1)
  if values.flags.c_contiguous and values.dtype == dtype:
    yield values.reshape(-1).view(np.uint8)
    return
  rows = max(1, BUFFER // max(1, dtype.itemsize * math.prod(values.shape[1:])))
  for start in range(0, len(values), rows):
    yield np.ascontiguousarray(values[start : start + rows], dtype).reshape(-1).view(np.uint8)


class Journal:
  """Which pieces are done, each with what is known of it, for one plan; lines of JSON."""

  def __init__(self, path: Path, plan: str):
    self._path, self._since = path, 0
    self._waiting: list[dict[str, Any]] = []
    self.done: dict[str, Any] = {}
    lines = path.read_text().splitlines() if path.exists() else []
    self.fresh = not lines or _parsed(lines[0]) != {"plan": plan}
    if self.fresh:
      path.parent.mkdir(parents=True, exist_ok=True)
    else:
      for line in lines[1:]:
        if entry := _parsed(line):  # the last line may be torn
          self.done[entry["name"]] = entry
    self._plan = plan

  def resume(self, partial: Path) -> bool:
    """Whether there is something to go on with: an entry for the same plan, and the unfinished output itself."""
    self.fresh = self.fresh or not partial.exists()
    return not self.fresh

  def begin(self) -> None:
    """Starts anew where the plan is another; to be called once the output is laid out."""
    if self.fresh:
      self.done = {}
      self._path.write_text(json.dumps({"plan": self._plan}) + "\n")

  def add(self, name: str, entry: dict[str, Any], size: int, writer: Writer) -> None:
    """Notes a piece of so many bytes, once it and those before it are on the disk."""
    self._waiting.append({"name": name, **entry})
    self._since += size
    if self._since >= _SYNC_EVERY:
      self.flush(writer)

  def flush(self, writer: Writer) -> None:
    writer.sync()
    with open(self._path, "a") as file:
      for entry in self._waiting:
        file.write(json.dumps(entry) + "\n")
        self.done[entry["name"]] = entry
      file.flush()
      os.fsync(file.fileno())
    self._waiting, self._since = [], 0

  def remove(self) -> None:
    self._path.unlink(missing_ok=True)


def _parsed(line: str) -> dict[str, Any] | None:
  try:
    return json.loads(line)
  except ValueError:
    return None
