"""The tensors of safetensors files, read one at a time by plain reads: nothing else is in memory beside it."""

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from kairos_jax.errors import KairosError

_TYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "I64": np.dtype(np.int64),
  "I32": np.dtype(np.int32),
  "I16": np.dtype(np.int16),
  "I8": np.dtype(np.int8),
  "U8": np.dtype(np.uint8),
  "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


class Stored(NamedTuple):
  """Where a tensor lies."""

  file: Path
  name: str
  dtype: np.dtype
  shape: tuple[int, ...]
  offset: int

  @property
  def nbytes(self) -> int:
    return self.dtype.itemsize * math.prod(self.shape)


def list_tensors(files: list[Path], rename: Callable[[str], str] = lambda name: name) -> dict[str, Stored]:
  """The tensors of the files by name, as `rename` makes it.

  Raises:
    KairosError: a file is missing, cut short or not safetensors, or a tensor is of a type that numpy lacks or comes
      twice; file and tensor are named.
  """
  found: dict[str, Stored] = {}
  for file in files:
    for stored in _header(file):
      name = rename(stored.name)
      if name in found:
        raise KairosError(f"{file}: {stored.name!r} is also in {found[name].file}")
      found[name] = stored
  return found


def read_index(index: Path) -> dict[str, Path]:
  """The file of each tensor that an index of safetensors names.

  Raises:
    KairosError: the index is not readable, or a file that it names is missing.
  """
  try:
    table = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    found = {name: index.with_name(file) for name, file in table.items()}
  except (ValueError, KeyError, AttributeError, TypeError) as error:
    raise KairosError(f"{index} is not a readable index of safetensors: {error!r}") from error
  for file in sorted(set(found.values())):
    if not file.exists():
      raise KairosError(f"{file} does not exist; {index.name} names it")
  return found


def shards_of(index: Path) -> list[Path]:
  """The files that an index of safetensors names; raises as `read_index` does."""
  return sorted(set(read_index(index).values()))


def read(stored: Stored) -> np.ndarray:
  """The tensor."""
  values = np.fromfile(stored.file, stored.dtype, math.prod(stored.shape), offset=stored.offset)
  return values.reshape(stored.shape)


class Tensors(Mapping[str, np.ndarray]):
  """The tensors of files by name, each read when it is asked for."""

  def __init__(self, found: Mapping[str, Stored]):
    self.found = found

  def __getitem__(self, name: str) -> np.ndarray:
    return read(self.found[name])

  def row(self, name: str, row: int) -> np.ndarray:
    """One entry of the first axis."""
    whole = self.found[name]
    size = whole.dtype.itemsize * math.prod(whole.shape[1:])
    return read(whole._replace(shape=whole.shape[1:], offset=whole.offset + row * size))

  def __iter__(self) -> Iterator[str]:
    return iter(self.found)

  def __len__(self) -> int:
    return len(self.found)


def header(tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> tuple[bytes, dict[str, int]]:
  """The beginning of a file of these tensors, one after the other, and the byte at which each of them starts.

  The first starts at a multiple of 64 bytes, so that a program may use the file's own pages as arrays.

  Raises:
    KairosError: a tensor's type has no place in the format; it is named.
  """
  table: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # which some of the format's readers ask for
  offsets, end = {}, 0
  for name, (dtype, shape) in tensors.items():
    if dtype not in _NAMES:
      raise KairosError(f"tensor {name!r} is {dtype}; safetensors holds {', '.join(_NAMES.values())}")
    begin, end = end, end + dtype.itemsize * math.prod(shape)
    table[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    offsets[name] = begin
  text = json.dumps(table, separators=(",", ":")).encode()
  text += b" " * (-(8 + len(text)) % 64)
  start = 8 + len(text)
  return struct.pack("<Q", len(text)) + text, {name: start + begin for name, begin in offsets.items()}


def _header(file: Path) -> list[Stored]:
  if not file.exists():
    raise KairosError(f"{file} does not exist")
  size = file.stat().st_size
  with file.open("rb") as handle:
    start = handle.read(8)
    if len(start) < 8:
      raise KairosError(f"{file} is cut short: it has {size} bytes")
    length = struct.unpack("<Q", start)[0]
    if 8 + length > size:
      raise KairosError(f"{file} is cut short: its list of tensors takes {length} bytes and the file has {size}")
    try:
      table: dict[str, Any] = json.loads(handle.read(length))
      table.pop("__metadata__", None)
      entries = [(name, x["dtype"], tuple(x["shape"]), tuple(x["data_offsets"])) for name, x in table.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise KairosError(f"{file} is not a readable safetensors file: {error!r}") from error
  found = []
  for name, kind, shape, (begin, end) in sorted(entries, key=lambda entry: entry[3]):
    if kind not in _TYPES:
      raise KairosError(f"{file}: {name!r} is {kind}; allowed: {', '.join(_TYPES)}")
    if end - begin != _TYPES[kind].itemsize * math.prod(shape):
      raise KairosError(f"{file}: {name!r} {list(shape)} takes {end - begin} bytes, which is another shape's size")
    if 8 + length + end > size:
      raise KairosError(
        f"{file} is cut short: {name!r} {list(shape)} ends at byte {8 + length + end} and the file has {size}"
      )
    found.append(Stored(file, name, _TYPES[kind], shape, 8 + length + begin))
  return found
