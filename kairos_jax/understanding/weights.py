"""Weights of a Hugging Face folder: sharded safetensors with their index, older and newer names, AWQ int4."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from kairos_jax import shards
from kairos_jax.errors import KairosError
from kairos_jax.understanding import awq
from kairos_jax.understanding.config import ModelConfig
from kairos_jax.understanding.layers import Params
from kairos_jax.understanding.places import Place, is_unused, modern_name, places

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(jnp.bfloat16)}


def load(folder: str | Path, config: ModelConfig, values: Mapping[str, Any], dtype: str, *, apart: bool) -> Params:
  """Parameters {"text", "vision"} as numpy arrays, one tensor of the files in memory at a time beside them.

  Args:
    values: config.json, whose quantization says whether the weights are AWQ.
    dtype: "float32" or "bfloat16"; int4 weights are dequantized into it.
    apart: groups of layers in a tuple and not stacked; see `layers.over_groups`.

  Raises:
    KairosError: a file or a tensor is missing, cut short, unknown, or of another shape; the line names the file, the
      tensor, and both shapes.
  """
  if dtype not in DTYPES:
    raise KairosError(f"dtype is {dtype!r}; allowed: {', '.join(map(repr, DTYPES))}")
  files, table = _Folder(Path(folder), awq.read_quantization(values)), places(config)
  files.check_names({name: place.shape for place in table.values() for name in place.names}, config)
  flat: dict[tuple[str, ...], np.ndarray] = {}
  groups: dict[str, list[dict[tuple[str, ...], np.ndarray]]] = {}
  for path, place in table.items():
    if apart and place.stacked:
      for i, name in enumerate(place.names):
        group = groups.setdefault(path[0], [{} for _ in place.names])[i]
        group[path[2:]] = np.ascontiguousarray(files.tensor(name, place), DTYPES[dtype])
    else:
      flat[path] = _stack(files, place, DTYPES[dtype])
  params = unflatten_dict(flat)
  for half, members in groups.items():
    params[half]["groups"] = tuple(unflatten_dict(x) for x in members)
  return params


def stream(
  folder: str | Path, config: ModelConfig, values: Mapping[str, Any], dtype: str
) -> Iterator[tuple[str, np.dtype, tuple[int, ...], Iterator[np.ndarray]]]:
  """What `load` gives with layers stacked, in the order of the names: name, type, shape, and the layers' values."""
  files, table = _Folder(Path(folder), awq.read_quantization(values)), places(config)
  files.check_names({name: place.shape for place in table.values() for name in place.names}, config)
  wanted = flatten_dict(shapes(config, dtype))
  for path in sorted(wanted, key="/".join):
    place = table[path]
    pieces = (np.ascontiguousarray(files.tensor(name, place), DTYPES[dtype]) for name in place.names)
    yield "/".join(path), DTYPES[dtype], wanted[path].shape, pieces


def shapes(config: ModelConfig, dtype: str) -> Params:
  """Shapes and types of what `load` gives with layers stacked, without a file."""
  flat: dict[tuple[str, ...], jax.ShapeDtypeStruct] = {}
  for path, place in places(config).items():
    shape = place.convert(np.broadcast_to(np.uint8(0), place.shape)).shape
    stack = (len(place.names),) if place.stacked else ()
    flat[path] = jax.ShapeDtypeStruct((*stack, *shape), DTYPES[dtype])
  return unflatten_dict(flat)


def _stack(files: "_Folder", place: Place, dtype: np.dtype) -> np.ndarray:
  first = files.tensor(place.names[0], place)
  if not place.stacked:
    return np.ascontiguousarray(first, dtype)
  out = np.empty((len(place.names), *first.shape), dtype)
  out[0] = first
  for i, name in enumerate(place.names[1:], 1):
    out[i] = files.tensor(name, place)
  return out


class _Folder:
  """The tensors of a folder by their newer names, whichever file they lie in."""

  def __init__(self, folder: Path, quantization: awq.Quantization | None):
    self._folder, self._quantization = folder, quantization
    self._listed: dict[str, Path] = {}  # newer name -> file, where there is an index
    index = folder / "model.safetensors.index.json"
    if index.exists():
      self._listed = {modern_name(name): file for name, file in shards.read_index(index).items()}
    files = sorted(set(self._listed.values())) if index.exists() else sorted(folder.glob("*.safetensors"))
    if not files:
      raise KairosError(f"no safetensors file at {folder}")
    self._found = shards.list_tensors(files, modern_name)

  def check_names(self, wanted: Mapping[str, tuple[int, ...]], config: ModelConfig) -> None:
    """Every wanted tensor is there, and no other that is not known to be without use; `wanted` has their shapes."""
    have = {awq.plain_name(name) if self._quantization else name for name in self._found}
    if missing := sorted(set(wanted) - have):
      where = self._listed.get(missing[0]) or self._folder
      more = f" and {len(missing) - 1} more" * (len(missing) > 1)
      raise KairosError(f"{where} lacks the tensor {missing[0]!r} {list(wanted[missing[0]])}{more}")
    unknown = sorted(name for name in have - set(wanted) if not is_unused(name, config))
    if unknown:
      first = next(x for name, x in self._found.items() if unknown[0] in (name, awq.plain_name(name)))
      raise KairosError(
        f"{first.file} holds {len(unknown)} tensors that the model has no place for, first {first.name!r} "
        f"{list(first.shape)}"
      )

  def tensor(self, name: str, place: Place) -> np.ndarray:
    """One tensor in our layout."""
    if self._quantization and name not in self._found:
      stem = name.removesuffix(".weight")
      parts = {part: self._read(f"{stem}.{part}") for part in awq.PARTS}
      file = self._found[f"{stem}.{awq.PARTS[0]}"].file
      return awq.dequantize(parts, self._quantization, (place.shape[1], place.shape[0]), f"{file}: {name}")
    found = self._read(name)
    if found.shape != place.shape:
      file = self._found[name].file
      raise KairosError(f"{file}: {name!r} is {list(found.shape)}; the model needs {list(place.shape)}")
    return place.convert(found)

  def _read(self, name: str) -> np.ndarray:
    if name not in self._found:
      raise KairosError(f"{self._folder} lacks the tensor {name!r}")
    return shards.read(self._found[name])
