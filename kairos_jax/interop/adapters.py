"""Adapters as a safetensors file, under the reference's names of the matrices, one layer after the other.

Of a matrix `blocks.3.self_attn.q.weight` [O I] the file holds `blocks.3.self_attn.q.lora_A.weight` [r I],
`...q.lora_B.weight` [O r] and `...q.alpha`, all in float32: W + alpha / r B A, the names that other programs use, too.
"""

from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from kairos_jax import files
from kairos_jax.errors import KairosError
from kairos_jax.interop.reference_names import layer_names
from kairos_jax.model.config import WorldActionConfig

Params = dict[str, Any]
_THIN = {"down": "lora_A.weight", "up": "lora_B.weight"}


def save(path: str | Path, adapters: Params, scale: float, config: WorldActionConfig) -> None:
  """Writes what `lora.init` made and training changed; see `load`."""
  tensors: dict[str, np.ndarray] = {}
  for place, value in flatten_dict(adapters).items():
    *matrix, thin = place
    for name, layer in zip(layer_names((*matrix, "kernel"), config), np.asarray(value, np.float32), strict=True):
      stem = name.removesuffix("weight")
      tensors[stem + _THIN[thin]] = layer.T
      if thin == "down":
        tensors[stem + "alpha"] = np.asarray(scale * layer.shape[1], np.float32)
  files.write_safetensors(path, tensors)


def load(path: str | Path, config: WorldActionConfig, shapes: Params) -> tuple[Params, float]:
  """Reads adapters for `lora.merge`.

  Args:
    path: a file that `save` wrote.
    config: of the model.
    shapes: its parameters, or their shapes.

  Returns:
    The adapters and their scale, alpha / r.

  Raises:
    KairosError: the file cannot be read, or a tensor is missing, unknown or of another shape; it is named.
  """
  tensors, used, adapters = files.read_safetensors(path), set[str](), {}
  scales: dict[str, float] = {}
  for place, matrix in flatten_dict(shapes).items():
    if place[0] not in ("video", "action") or place[1] != "groups" or place[-1] != "kernel":
      continue
    stems = [name.removesuffix("weight") for name in layer_names(place, config)]
    if not any(stem + thin in tensors for stem in stems for thin in _THIN.values()):
      continue
    _, inputs, outputs = matrix.shape
    ranks = {name: len(tensors[name]) for name in (stem + _THIN["down"] for stem in stems) if name in tensors}
    rank = next(iter(ranks.values()), 0)
    for thin, shape in (("down", (rank, inputs)), ("up", (outputs, rank))):
      names = [stem + _THIN[thin] for stem in stems]
      for name in names:
        _check(path, tensors, name, shape)
      adapters[*place[:-1], thin] = np.stack([tensors[name].T for name in names])
      used.update(names)
    for name in (stem + "alpha" for stem in stems):
      _check(path, tensors, name, ())
      scales[name] = float(tensors[name]) / rank
      used.add(name)
  if unknown := sorted(set(tensors) - used):
    raise KairosError(f"{path} holds {len(unknown)} tensors that the model has no place for, first {unknown[0]!r}")
  if len(set(scales.values())) != 1:
    raise KairosError(f"{path} holds adapters of scales {sorted(set(scales.values()))}; allowed: one, and one adapter")
  return unflatten_dict(adapters), next(iter(scales.values()))


def _check(path: str | Path, tensors: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> None:
  if name not in tensors:
    raise KairosError(f"{path} lacks {name!r}, {shape}")
  if tensors[name].shape != shape:
    raise KairosError(f"{path}: {name!r} is {tensors[name].shape}; the model needs {shape}")
