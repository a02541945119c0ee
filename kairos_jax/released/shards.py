"""The tensors of official safetensors files, read one at a time by plain reads: nothing else is in memory beside it."""

import json
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from kairos_jax.errors import KairosError
from kairos_jax.interop.reference_names import modern_name

_TYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
}


class Stored(NamedTuple):
  """Where a tensor lies."""

  file: Path
  name: str
  dtype: np.dtype
  shape: tuple[int, ...]
  offset: int


def list_tensors(files: list[Path]) -> dict[str, Stored]:
  """The tensors of the files by the name with a tower in front.

  Raises:
    KairosError: a file is missing, cut short or not safetensors, or a tensor is of another type than floats or comes
      twice; file and tensor are named.
  """
  found: dict[str, Stored] = {}
  for file in files:
    for stored in _header(file):
      name = modern_name(stored.name)
      if name in found:
        raise KairosError(f"{file}: {stored.name!r} is also in {found[name].file}")
      found[name] = stored
  return found


def shards_of(index: Path) -> list[Path]:
  """The files that an index of safetensors names.

  Raises:
    KairosError: the index is not readable.
  """
  try:
    files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return [index.with_name(file) for file in sorted(files)]
  except (ValueError, KeyError, AttributeError, TypeError) as error:
    raise KairosError(f"{index} is not a readable index of safetensors: {error!r}") from error


def read(stored: Stored) -> np.ndarray:
  """The tensor."""
  values = np.fromfile(stored.file, stored.dtype, math.prod(stored.shape), offset=stored.offset)
  return values.reshape(stored.shape)


def _header(file: Path) -> list[Stored]:
  if not file.exists():
    raise KairosError(f"{file} does not exist")
  size = file.stat().st_size
  with file.open("rb") as handle:
    start = handle.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if len(start) < 8 or 8 + length > size:
      raise KairosError(f"{file} is cut short, or no safetensors file: it has {size} bytes")
    try:
      table: dict[str, Any] = json.loads(handle.read(length))
      table.pop("__metadata__", None)
      entries = [(name, x["dtype"], tuple(x["shape"]), x["data_offsets"]) for name, x in table.items()]
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
