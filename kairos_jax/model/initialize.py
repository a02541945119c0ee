"""The action tower's first weights, interpolated from the video tower's: it starts as a small copy of its teacher.

Source: Kairos section 2 ("initialized by interpolating VideoDiT weights"); the paper does not say how.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from kairos_jax.model.config import VideoConfig
from kairos_jax.model.memory import layer_name

Params = dict[str, Any]

SHARED = ("time", "text_embedding", "groups")  # what both towers have


def interpolate_video(video: Params, action: Params, config: VideoConfig) -> Params:
  """Returns `action` with all that the video tower has too resized from it.

  Matrices are resized along both axes and scaled so that a unit input still gives an output of the same size: resizing
  averages neighbors, and fewer inputs add up. Where the video layer is a gated delta net, the self-attention comes
  from the nearest attention layer before it (or after, if there is none). The rest stays as it was initialized.
  """
  source, out = flatten_dict(video), dict(flatten_dict(action))
  for path, value in out.items():
    if path[0] in SHARED and (found := source.get(_teacher(path, config))) is not None:
      out[path] = _resize(found, value.shape, matrix=path[-1] == "kernel")
  return unflatten_dict(out)


def _teacher(path: tuple[str, ...], config: VideoConfig) -> tuple[str, ...]:
  if path[0] != "groups" or path[2] != "self_attn" or not config.attention_layers:
    return path
  layer = int(path[1].removeprefix("layer_"))
  nearest = max((i for i in config.attention_layers if i <= layer), default=config.attention_layers[0])
  return ("groups", layer_name(nearest), *path[2:])


def _resize(x: Array, shape: tuple[int, ...], *, matrix: bool) -> Array:
  """Linear interpolation; a leading axis of layer groups keeps its size and its groups apart."""
  if x.shape == shape:
    return x
  resized = jax.image.resize(x, shape, "linear", antialias=True)
  if not matrix:
    return resized
  axes = (-2, -1)
  gain = jnp.std(x, axes, keepdims=True) / jnp.maximum(jnp.std(resized, axes, keepdims=True), 1e-12)
  return resized * gain * (x.shape[-2] / shape[-2]) ** 0.5
