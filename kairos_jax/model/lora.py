"""LoRA: a matrix W of the towers' layers stays as it is, and a product of two thin ones is added, W + s down up.

Adapters are a tree beside the parameters, with the paths of the matrices that they change. They are either added into
the parameters (`merge`, taken out again by `unmerge`), or read beside them while the model runs (`reading`): then no
second copy of the matrices is made, and the gradient knows the adapters alone.

Source: LoRA (arXiv 2106.09685).
"""

import dataclasses
import fnmatch
import zlib
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from kairos_jax.errors import KairosError

Params = dict[str, Any]
COLLECTION = "lora"  # the adapters' place beside "params" among a model's variables
_TOWERS = ("video", "action")


@dataclasses.dataclass(frozen=True)
class Lora:
  """Which matrices get an adapter.

  Attributes:
    rank: r, of the adapters.
    alpha: the product is scaled by alpha / rank.
    targets: shell patterns on the matrices' paths, such as "video/*/self_attn/*"; "*" also matches "/".
  """

  rank: int
  alpha: float
  targets: tuple[str, ...]

  @property
  def scale(self) -> float:
    return self.alpha / self.rank


def init(params: Params, lora: Lora, key: Array) -> Params:
  """Adapters that change nothing yet: `down` [(G) I r] is drawn, `up` [(G) r O] is zero.

  Args:
    params: nested dicts of a model's parameters, or of their shapes.
    lora: which of the matrices [(G) I O] in the towers' layers are meant.
    key: each matrix draws by its own path, so that it does not depend on the other targets.

  Returns:
    {"video": ..., "action": ...} with {"down", "up"}, in float32, in the place of each matrix.

  Raises:
    KairosError: a pattern matches no such matrix.
  """
  matrices = _matrices(params)
  for pattern in lora.targets:
    if not fnmatch.filter(matrices, pattern):
      known = ", ".join(sorted({name.split("/", 3)[-1] for name in matrices}))
      raise KairosError(
        f"lora target {pattern!r} matches no matrix; a tower's layers, as video/groups/layer_0, hold {known}"
      )
  adapters = {}
  for name, matrix in matrices.items():
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in lora.targets):
      *groups, inputs, outputs = matrix.shape
      own = jax.random.fold_in(key, np.uint32(zlib.crc32(name.encode())))
      bound = inputs**-0.5
      adapters[f"{name}/down"] = jax.random.uniform(own, (*groups, inputs, lora.rank), minval=-bound, maxval=bound)
      adapters[f"{name}/up"] = jnp.zeros((*groups, lora.rank, outputs))
  return unflatten_dict(adapters, sep="/")


def merge(params: Params, adapters: Params, scale: float) -> Params:
  """Parameters with scale down up added to each matrix, each in its own type; the others are the same arrays."""
  return _add(params, adapters, scale)


def unmerge(params: Params, adapters: Params, scale: float) -> Params:
  """The inverse of `merge`, to rounding."""
  return _add(params, adapters, -scale)


def scaled(adapters: Params, scale: float) -> Params:
  """The adapters as a model reads them: the scale is in `up`."""
  flat = flatten_dict(adapters)
  return unflatten_dict({path: value * scale if path[-1] == "up" else value for path, value in flat.items()})


def reading() -> AbstractContextManager[None]:
  """While it is open, a model that runs with {"params": ..., "lora": scaled(adapters)} reads its adapters."""
  return nn.intercept_methods(_read)


def _read(dense: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: nn.module.InterceptorContext) -> Any:
  out, module = dense(*args, **kwargs), context.module
  if not (isinstance(module, nn.Dense) and module.has_variable(COLLECTION, "up")):
    return out
  down: Array = module.get_variable(COLLECTION, "down")
  up: Array = module.get_variable(COLLECTION, "up")
  x, down, up = promote_dtype(args[0], down, up, dtype=module.dtype)
  return out + (x @ down) @ up


def _matrices(params: Params) -> dict[str, Any]:
  """The matrices in the layers of the towers, by path without "kernel"."""
  flat = flatten_dict({name: params[name] for name in _TOWERS if name in params})
  return {"/".join(path[:-1]): value for path, value in flat.items() if path[1] == "groups" and path[-1] == "kernel"}


def _add(params: Params, adapters: Params, scale: float) -> Params:
  flat, thin = flatten_dict(params, sep="/"), flatten_dict(adapters, sep="/")
  for name in (name.removesuffix("/up") for name in thin if name.endswith("/up")):
    down, up, matrix = thin[f"{name}/down"], thin[f"{name}/up"], flat.get(f"{name}/kernel")
    want = (*down.shape[:-1], up.shape[-1])
    if matrix is None or matrix.shape != want:
      raise KairosError(f"adapter {name} is for a matrix {want}; the model has {getattr(matrix, 'shape', 'none')}")
    wide = jnp.promote_types(matrix.dtype, down.dtype)
    product = jnp.matmul(down.astype(wide), up.astype(wide), precision="highest")
    flat[f"{name}/kernel"] = (matrix.astype(wide) + scale * product).astype(matrix.dtype)
  return unflatten_dict(flat, sep="/")
