"""Weights of a Hugging Face folder: sharded safetensors with their index, older and newer names, AWQ int4."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax.traverse_util import unflatten_dict

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
  with _Folder(Path(folder), awq.read_quantization(values)) as files:
    table = places(config)
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
    self._open: dict[str, Any] = {}
    self._names: dict[str, tuple[str, str]] = {}  # newer name -> (file, name in it)
    self._listed = folder / "model.safetensors.index.json"

  def __enter__(self) -> "_Folder":
    for file in self._shards():
      for name in self._handle(file).keys():
        self._names[modern_name(name)] = (file, name)
    return self

  def __exit__(self, *error: object) -> None:
    self._open.clear()

  def check_names(self, wanted: Mapping[str, tuple[int, ...]], config: ModelConfig) -> None:
    """Every wanted tensor is there, and no other that is not known to be without use; `wanted` has their shapes."""
    have = {awq.plain_name(name) if self._quantization else name for name in self._names}
    if missing := sorted(set(wanted) - have):
      where = self._index().get(missing[0]) or self._folder
      more = f" and {len(missing) - 1} more" * (len(missing) > 1)
      raise KairosError(f"{where} lacks the tensor {missing[0]!r} {list(wanted[missing[0]])}{more}")
    unknown = sorted(name for name in have - set(wanted) if not is_unused(name, config))
    if unknown:
      file, inside = next(x for name, x in self._names.items() if unknown[0] in (name, awq.plain_name(name)))
      shape = self._handle(file).get_slice(inside).get_shape()
      raise KairosError(
        f"{self._folder / file} holds {len(unknown)} tensors that the model has no place for, first {inside!r} {shape}"
      )

  def tensor(self, name: str, place: Place) -> np.ndarray:
    """One tensor in our layout."""
    if self._quantization and name not in self._names:
      stem = name.removesuffix(".weight")
      parts = {part: self._read(f"{stem}.{part}") for part in awq.PARTS}
      file = self._folder / self._names[f"{stem}.{awq.PARTS[0]}"][0]
      return awq.dequantize(parts, self._quantization, (place.shape[1], place.shape[0]), f"{file}: {name}")
    found = self._read(name)
    if found.shape != place.shape:
      file = self._folder / self._names[name][0]
      raise KairosError(f"{file}: {name!r} is {list(found.shape)}; the model needs {list(place.shape)}")
    return place.convert(found)

  def _read(self, name: str) -> np.ndarray:
    if name not in self._names:
      raise KairosError(f"{self._folder} lacks the tensor {name!r}")
    file, inside = self._names[name]
    return self._handle(file).get_tensor(inside)

  def _shards(self) -> list[str]:
    if self._listed.exists():
      return sorted(set(self._index(modern=False).values()))
    found = sorted(path.name for path in self._folder.glob("*.safetensors"))
    if not found:
      raise KairosError(f"no safetensors file at {self._folder}")
    return found

  def _index(self, modern: bool = True) -> dict[str, Any]:
    if not self._listed.exists():
      return {}
    try:
      table = json.loads(self._listed.read_text(encoding="utf-8"))["weight_map"]
      return {modern_name(name): self._folder / file for name, file in table.items()} if modern else table
    except (ValueError, KeyError, AttributeError) as error:
      raise KairosError(f"{self._listed} is not a readable index of safetensors: {error}") from error

  def _handle(self, file: str) -> Any:
    if file not in self._open:
      path = self._folder / file
      if not path.exists():
        raise KairosError(f"{path} does not exist; {self._listed.name} names it")
      try:
        self._open[file] = safetensors.safe_open(path, framework="numpy")
      except (OSError, safetensors.SafetensorError) as error:
        raise KairosError(_damage(path) or f"{path} is not a readable safetensors file: {error}") from error
    return self._open[file]


def _damage(path: Path) -> str | None:
  """Names the first tensor that a file which was cut short no longer holds; None if that is not what ails it."""
  size = path.stat().st_size
  with path.open("rb") as file:
    start = file.read(8)
    if len(start) < 8:
      return f"{path} is cut short: it has {size} bytes"
    length = struct.unpack("<Q", start)[0]
    if 8 + length > size:
      return f"{path} is cut short: its list of tensors takes {length} bytes and the file has {size}"
    try:
      table = json.loads(file.read(length))
      tensors = sorted((x["data_offsets"][1], name, x["shape"]) for name, x in table.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError):
      return None
  for end, name, shape in tensors:
    if 8 + length + end > size:
      return f"{path} is cut short: {name!r} {shape} ends at byte {8 + length + end} and the file has {size}"
  return None
