"""A released codec's parameters from its weight file, and back."""

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from flax.traverse_util import unflatten_dict

from kairos_jax import files, shards
from kairos_jax.errors import KairosError
from kairos_jax.interop import torch_file

Path = tuple[str, ...]  # of a parameter


@runtime_checkable
class ReleasedCodec(Protocol):
  """A codec that knows the names which a released file has for its tensors."""

  def from_reference(self, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Parameters from the file's tensors."""

  def to_reference(self, params: dict[str, Any]) -> dict[str, np.ndarray]:
    """The file's tensors from parameters."""

  def turned_in(self, tensors: Mapping[str, np.ndarray]) -> Iterator[tuple[Path, np.ndarray, np.dtype]]:
    """As `from_reference`, one parameter after the other: its path, its values, and the type that it shall have."""

  def turned_out(self, flat: Mapping[Path, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """As `to_reference`, one tensor after the other, from parameters by their paths."""


def load(codec: object, path: str | os.PathLike) -> dict[str, Any]:
  """Parameters from a weight file: safetensors by its suffix, a PyTorch zip archive otherwise.

  Raises:
    KairosError: the file is missing, truncated, damaged or refused, or a tensor of it is missing, unknown or of another
      shape; file and tensor are named. Or the codec is none that is released.
  """
  return unflatten_dict({place: np.ascontiguousarray(x, dtype) for place, x, dtype in stream(codec, path)})


def stream(codec: object, path: str | os.PathLike) -> Iterator[tuple[Path, np.ndarray, np.dtype]]:
  """As `load`, one parameter after the other: its path, its values, and the type that it shall have."""
  if not isinstance(codec, ReleasedCodec):
    raise KairosError(f"{path}: a {type(codec).__name__} has no released weights")
  try:
    yield from codec.turned_in(tensors(path))
  except KairosError as error:
    raise KairosError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None


def tensors(path: str | os.PathLike) -> Mapping[str, np.ndarray]:
  """The file's tensors, each read when it is asked for; raises as `load` does."""
  if pathlib.Path(path).suffix == ".safetensors":
    return shards.Tensors(shards.list_tensors([pathlib.Path(path)]))
  return torch_file.read(path)


def save(codec: ReleasedCodec, path: str | os.PathLike, params: dict[str, Any]) -> None:
  """Writes the parameters as safetensors, under the released names."""
  files.write_safetensors(path, codec.to_reference(params))
