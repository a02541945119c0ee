"""Random weights of the size of trained ones for models of billions, in seconds: to measure, and to try probes on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kairos_jax.model.config import WorldActionConfig
from kairos_jax.model.world_action import init_params

_BLOCK = 1_000_003  # random numbers that are drawn; larger tensors repeat them, each row from elsewhere


def shapes_of(config: WorldActionConfig) -> dict[str, Any]:
  """Shapes of the towers' parameters, in the type that `config.video.dtype` names."""
  shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, config.video.dtype), shapes)


def draw(config: WorldActionConfig, seed: int = 0) -> dict[str, Any]:
  """The towers' parameters, in the type that `config.video.dtype` names.

  Matrices keep the size of what passes through them, gates are those of a fresh model, norms do nothing.

  Args:
    config: of the towers.
    seed: of the numbers.
  """
  block = np.random.default_rng(seed).standard_normal(_BLOCK, np.float32)
  return jax.tree_util.tree_map_with_path(lambda path, x: _tensor(path[-1].key, x, block), shapes_of(config))


def _tensor(name: str, shape: jax.ShapeDtypeStruct, block: np.ndarray) -> jax.Array:
  kind = np.dtype(shape.dtype)
  if name in ("scale", "bias"):
    return jnp.full(shape.shape, name == "scale", shape.dtype)
  if name in ("A_log", "dt_bias"):
    spread = np.abs(np.resize(block, shape.shape))
    return jnp.asarray(np.log(spread + 0.1) if name == "A_log" else spread - 5.0, shape.dtype)
  fan = shape.shape[-2] if name == "kernel" else shape.shape[-1]
  return jnp.asarray(np.resize((block * fan**-0.5).astype(kind), shape.shape))
