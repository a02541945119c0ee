"""Towers whose large matrices are whole numbers of 8 or 4 bits, which each layer turns back as it reads them.

Memory is what is gained: the matrices stay small on the device, and a layer's own are widened inside the scanned body,
where they are read. What decides much with few numbers stays as it is: embeddings, modulation, heads, norms, biases,
and the delta net's gates and convolutions.

Source: qwix's arrays (https://github.com/google/qwix); int8 with a scale for each output, int4 with one for each output
and group of inputs.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int, UInt8

from kairos_jax.model import rounding

Params = dict[str, Any]

KINDS = ("int8", "int4")
GROUP, LEAST = 128, 8  # inputs that share a scale, of int4; and fewest that do
_KEPT = ("a_proj", "b_proj", "g_proj")  # the delta net's gates
_PARTS = ("qvalue", "scale")


class LowBit(NamedTuple):
  """How a model's towers are kept.

  Attributes:
    kind: of the large matrices, one of `KINDS`.
    rest: name of the type of all other parameters of the towers.
  """

  kind: str
  rest: str


def quantize_matrix(
  matrix: Float[Array, "G I O"], kind: str, moments: Float[np.ndarray, "G N J J"] | None = None
) -> Any:
  """A qwix array for the matrices of all layer groups at once.

  Args:
    moments: of the inputs, in blocks of `block`; then the whole numbers are those that keep the outputs
      (`rounding.round_for_inputs`). None: the nearest ones.
  """
  import qwix

  matrix = jnp.asarray(matrix, jnp.float32)
  made = qwix.quantize(matrix, kind, **_how(matrix.shape, kind))
  if moments is None:
    return qwix.QArray(made.qvalue, made.scale)
  limits = int(jnp.iinfo(made.qvalue.dtype).min), int(jnp.iinfo(made.qvalue.dtype).max)
  groups = zip(matrix, made.scale, moments, strict=True)
  values = jnp.stack([rounding.round_for_inputs(*group, limits).astype(made.qvalue.dtype) for group in groups])
  return qwix.QArray(values, made.scale)


def quantize(params: Params, kind: str, moments: Mapping[tuple[str, ...], Any] | None = None) -> Params:
  """Parameters of a model with the large matrices of its towers in `kind`; all others are the same arrays.

  Args:
    moments: of the inputs of each large matrix, by its path; see `quantize_matrix`.
  """
  of = moments or {}
  flat = flatten_dict(params)
  return unflatten_dict(
    {path: quantize_matrix(x, kind, of.get(path)) if is_large(path) else x for path, x in flat.items()}
  )


def block(inputs: int) -> int:
  """How many inputs of so many are a block, whose numbers share scales of int4 and whose moments are kept."""
  size = math.gcd(inputs, GROUP)
  return size if size >= LEAST else inputs


def quantized_shapes(shapes: Params, low_bit: LowBit) -> Params:
  """What `quantize` makes of shapes `jax.ShapeDtypeStruct`, whose towers are otherwise of the type `low_bit.rest`."""

  def narrow(path, shape):
    if is_large(path):
      return jax.eval_shape(functools.partial(quantize_matrix, kind=low_bit.kind), shape)
    return jax.ShapeDtypeStruct(shape.shape, low_bit.rest) if path[0] in ("video", "action") else shape

  return unflatten_dict({path: narrow(path, x) for path, x in flatten_dict(shapes).items()})


def is_large(path: tuple[str, ...]) -> bool:
  """Whether the parameter at this path is one that is quantized: a matrix in the layers of a tower, but no gate."""
  return path[0] in ("video", "action") and path[1] == "groups" and path[-1] == "kernel" and path[-2] not in _KEPT


def is_quantized(value: Any) -> bool:
  """Whether this is a qwix array."""
  return hasattr(value, "qvalue")


def dequantize(value: Any) -> Any:
  """The matrix that a qwix array stands for, float32; anything else as it is."""
  if not is_quantized(value):
    return value
  import qwix

  return qwix.dequantize(value)


def dequantize_all(params: Params) -> Params:
  """Parameters without qwix arrays."""
  return jax.tree.map(dequantize, params, is_leaf=is_quantized)


def flatten(params: Params) -> dict[str, Any]:
  """Plain arrays by name; the two parts of a quantized one are called NAME/qvalue and NAME/scale."""
  flat: dict[str, Any] = {}
  for name, value in flatten_dict(params, sep="/").items():
    if is_quantized(value):
      flat.update({f"{name}/{part}": getattr(value, part) for part in _PARTS})
    else:
      flat[name] = value
  return flat


def nbytes(tree: Any) -> int:
  """Of arrays or their shapes; two numbers of 4 bits are a byte."""
  return sum(x.size // 2 if x.dtype == jnp.int4 else x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def unflatten(flat: Mapping[str, Any]) -> Params:
  """The inverse of `flatten`."""
  whole: dict[str, Any] = {}
  for name, value in flat.items():
    stem, _, part = name.rpartition("/")
    if part not in _PARTS or f"{stem}/qvalue" not in flat:
      whole[name] = value
    elif part == "qvalue":
      import qwix

      whole[stem] = qwix.QArray(value, flat[f"{stem}/scale"])
  return unflatten_dict(whole, sep="/")


def pack(values: Int[np.ndarray, "..."]) -> UInt8[np.ndarray, "N"]:
  """Two numbers of 4 bits a byte, the first in the lower half: files have no such type."""
  flat = np.ascontiguousarray(values).astype(np.int8).reshape(-1).view(np.uint8) & 15
  flat = np.pad(flat, (0, flat.size % 2))
  return flat[::2] | flat[1::2] << 4


def unpack(packed: UInt8[np.ndarray, "N"], shape: tuple[int, ...]) -> Int[np.ndarray, "..."]:
  """The inverse of `pack`."""
  halves = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)[: math.prod(shape)]
  return (((halves ^ 8).astype(np.int8)) - 8).reshape(shape).astype(jnp.int4)


def _promote(*arrays: Any, dtype: Any = None, inexact: bool = True) -> list[Any]:
  """Flax's `promote_dtype` for matrices that may be quantized."""
  return promote_dtype(*map(dequantize, arrays), dtype=dtype, inexact=inexact)


# A layer whose matrix may be quantized.
Dense = functools.partial(nn.Dense, promote_dtype=_promote)


def _how(shape: tuple[int, ...], kind: str) -> dict[str, Any]:
  """Which numbers [G I O] share a scale."""
  size = block(shape[1])
  return dict(channelwise_axes=(0, 2), tiled_axes={1: size} if kind == "int4" and size < shape[1] else {})
