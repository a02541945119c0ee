"""Files that are either whole or not there: every writer of this package goes through here."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jax.typing import ArrayLike

from kairos_jax import locations
from kairos_jax.errors import KairosError


@contextlib.contextmanager
def replaced(path: str | os.PathLike) -> Iterator[str]:
  """Yields a temporary path of this machine, which takes the place of `path` when the block ends well.

  The folder is made if need be; the temporary name keeps the suffix, by which writers choose a format. The content
  reaches the disk before the name, and the name before the block returns: a power cut leaves the old file or the new.
  """
  target = locations.at(path)
  target.parent.mkdir(parents=True, exist_ok=True)
  with locations.stored(target) as partial:
    yield str(partial)


def remove_leftovers(path: str | os.PathLike) -> None:
  """Removes the temporary files of writers of `path` that were killed; none may be at work."""
  target = locations.at(path)
  for temporary in target.parent.glob(f".{target.stem}.[0-9]*{target.suffix}"):
    temporary.unlink()


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes what JSON can hold, indented and with a line end."""
  text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
  with replaced(path) as partial:
    pathlib.Path(partial).write_text(text, encoding="utf-8")


def write_safetensors(path: str | os.PathLike, tensors: Mapping[str, ArrayLike]) -> None:
  """Writes arrays of numpy or JAX by name, whatever their strides and byte order.

  The library writes an array's memory as it lies there, so a view (transposed, reversed, broadcast) is copied first.

  Raises:
    KairosError: a tensor's type has no place in the format; it is named.
  """
  # NOTE: not np.ascontiguousarray, which makes a number a vector of one.
  arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
  for name, array in arrays.items():
    if array.dtype.name not in _TYPES:
      raise KairosError(f"tensor {name!r} is {array.dtype}; safetensors holds {', '.join(sorted(_TYPES))}")
  with replaced(path) as partial:
    safetensors.numpy.save_file(arrays, partial)


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The tensors of a file by name, in their own types (bfloat16 is that of `ml_dtypes`).

  Raises:
    KairosError: there is no such file, it is not readable as safetensors, or it holds floats of 8 bits or fewer.
  """
  try:
    with locations.fetched(path) as here:
      with safetensors.safe_open(here, framework="numpy") as file:
        for name in file.keys():
          if (kind := file.get_slice(name).get_dtype()).startswith(_NARROW):
            raise KairosError(f"{path}: tensor {name!r} is {kind}; allowed: floats of 16, 32 or 64 bits, and integers")
      return safetensors.numpy.load_file(here)
  except FileNotFoundError as error:
    raise KairosError(f"{path} does not exist") from error
  except (OSError, safetensors.SafetensorError) as error:
    raise KairosError(f"{path} is not a readable safetensors file: {error}") from error


_TYPES = frozenset(
  "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 bfloat16 float32 float64 complex64".split()
)
_NARROW = ("F8_", "F6_", "F4")  # how the format names floats of a byte or less


def sha256(path: str | os.PathLike) -> str:
  """Of a file's content, in hexadecimal."""
  with locations.at(path).open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
