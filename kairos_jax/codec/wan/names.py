"""Parameters <-> the tensors of Wan2.1_VAE.pth: every tensor has one name there and one place here.

Both directions only rename, transpose and drop axes of one, so a round trip is bit-exact.
"""

import re
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from kairos_jax.codec.wan.layers import Params
from kairos_jax.errors import KairosError

Path = tuple[str, ...]

_PREFIX = re.compile(r"^(model_state\.)?(model\.)?")  # what some copies of the file have before every name
_TOP = {"to_moments": "conv1", "from_latents": "conv2"}
_STAGES = {"encoder": "downsamples", "decoder": "upsamples"}
_MIDDLE = {"before": "0", "attention": "1", "after": "2"}
_HEAD = {"norm": "0", "conv": "2"}
_BLOCK = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}
_LEAVES = {"kernel": "weight", "scale": "gamma"}


def to_reference(params: Params) -> dict[str, np.ndarray]:
  """Parameters as the tensors of the file."""
  return {name: np.ascontiguousarray(x) for name, x in turned_out(flatten_dict(params))}


def turned_out(flat: Mapping[Path, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
  """The tensors of the file, each made when it is asked for, from parameters by their paths."""
  names = _names(flat)
  for path in flat:
    yield names[path], _to_reference(path, np.asarray(flat[path]))


def from_reference(tensors: Mapping[str, np.ndarray], shapes: Params) -> Params:
  """The tensors of a file as parameters of these shapes and types; raises as `turned_in` does."""
  return unflatten_dict({path: np.ascontiguousarray(x, dtype) for path, x, dtype in turned_in(tensors, shapes)})


def turned_in(tensors: Mapping[str, np.ndarray], shapes: Params) -> Iterator[tuple[Path, np.ndarray, np.dtype]]:
  """Parameters by their paths, each made when it is asked for, and the type that it shall have.

  Raises:
    KairosError: a tensor is missing, unknown, or of another shape; it is named.
  """
  given = {_PREFIX.sub("", name): name for name in tensors}
  flat = flatten_dict(shapes)
  names = _names(flat)
  if missing := [name for name in names.values() if name not in given]:
    raise KairosError(f"the file lacks {missing[0]!r}" + (f" and {len(missing) - 1} more" * (len(missing) > 1)))
  if unknown := sorted(set(given) - set(names.values())):
    raise KairosError(f"the file holds {len(unknown)} tensors that the codec has no place for, first {unknown[0]!r}")
  for path, shape in flat.items():
    tensor = tensors[given[names[path]]]
    want = _to_reference(path, np.broadcast_to(np.uint8(0), shape.shape)).shape
    if tensor.shape != want:
      raise KairosError(f"the file's {names[path]!r} is {tensor.shape}; the codec needs {want}")
    yield path, _from_reference(path, tensor, shape), np.dtype(shape.dtype)


def _names(paths: Mapping[Path, object]) -> dict[Path, str]:
  """The name in the file of each parameter. There a stage's blocks and resampling are one numbered list."""
  blocks = {half: 1 + max(int(p[4]) for p in paths if p[0] == half and p[3:4] == ("blocks",)) for half in _STAGES}
  return {path: _name(path, blocks) for path in paths}


def _name(path: Path, blocks: Mapping[str, int]) -> str:
  half, part = path[:2]
  leaf = _LEAVES.get(path[-1], path[-1])
  if half in _TOP:
    return f"{_TOP[half]}.{leaf}"
  if part == "conv_in":
    return f"{half}.conv1.{leaf}"
  if part == "head":
    return f"{half}.head.{_HEAD[path[2]]}.{leaf}"
  if part == "middle":
    return f"{half}.middle.{_MIDDLE[path[2]]}.{_BLOCK.get(path[3], path[3])}.{leaf}"
  number = int(path[2]) * (blocks[half] + 1)
  if path[3] == "blocks":
    return f"{half}.{_STAGES[half]}.{number + int(path[4])}.{_BLOCK.get(path[5], path[5])}.{leaf}"
  name = {"conv": "resample.1"}.get(path[4], path[4])
  return f"{half}.{_STAGES[half]}.{number + blocks[half]}.{name}.{leaf}"


def _to_reference(path: Path, x: np.ndarray) -> np.ndarray:
  """[..., inputs, outputs] -> [outputs, inputs, ...], with axes of one where the file has a pixel or a moment."""
  if path[-1] == "bias":
    return x
  x = np.moveaxis(x, (-1, -2), (0, 1)) if x.ndim > 1 else x
  ones = 2 if x.ndim == 3 or "attention" in path else 3 if x.ndim < 3 else 0
  return x.reshape(*x.shape, *(1,) * ones)


def _from_reference(path: Path, tensor: np.ndarray, shape: jax.ShapeDtypeStruct) -> np.ndarray:
  if path[-1] == "bias":
    return tensor
  ndim = len(shape.shape)
  x = tensor.reshape(tensor.shape[:ndim])
  return np.moveaxis(x, (0, 1), (-1, -2)) if ndim > 1 else x
