"""A tower's layers by number: parameters, memories and intermediates hold them by group and place in the group."""

from typing import Any

import jax
import numpy as np

from kairos_jax.errors import KairosError
from kairos_jax.model import VideoConfig
from kairos_jax.model.memory import layer_name


def place(config: VideoConfig, layer: int) -> tuple[int, str]:
  """The group of a layer, and its name in the group.

  Raises:
    KairosError: the tower has no layer of that number.
  """
  if not 0 <= layer < len(config.layers):
    raise KairosError(f"layer {layer} does not exist; this tower has the layers 0 to {len(config.layers) - 1}")
  return layer // len(config.group), layer_name(layer % len(config.group))


def gated(config: VideoConfig) -> list[int]:
  """Numbers of the gated delta nets."""
  return [i for i, kind in enumerate(config.layers) if kind == "GATED"]


def by_number(config: VideoConfig, grouped: dict[str, Any], axis: int) -> dict[int, Any]:
  """What {layer name: tree with an axis of groups} holds of each layer, by the layer's number."""
  found = {}
  for layer in range(len(config.layers)):
    group, name = place(config, layer)
    if name in grouped:
      found[layer] = jax.tree.map(lambda x, g=group: np.take(np.asarray(x), g, axis), grouped[name])
  return found
