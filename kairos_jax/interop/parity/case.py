"""What every runner of golden cases shares: the model of a case, and the reference's layouts."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kairos_jax.interfaces import Context
from kairos_jax.interop.golden import GoldenCase
from kairos_jax.model import WorldActionConfig, WorldActionModel

Compared = Iterator[tuple[str, Any, Any]]  # tensor, ours, theirs


def model_of(case: GoldenCase, overrides: dict[str, Any]) -> tuple[WorldActionModel, dict[str, Any], WorldActionConfig]:
  """The case's model with some of its config replaced, its parameters, and that config."""
  config, params = case.weights(overrides)
  return WorldActionModel(config), params, config


def context_of(t: dict[str, Any], key: str) -> Context:
  """What the towers read, from the tensors `key` and `{key}_mask` (absent or None: everything is read)."""
  mask = t.get(f"{key}_mask")
  return Context(jnp.asarray(t[key]), None if mask is None else jnp.asarray(mask, bool))


def frames_last(x: np.ndarray) -> jax.Array:
  """The reference's [B C F H W] -> [B F H W C]."""
  return jnp.moveaxis(jnp.asarray(x), 1, -1)


def frames_second(x: Any) -> np.ndarray:
  """[B F H W C] -> the reference's [B C F H W]."""
  return np.moveaxis(np.asarray(x), -1, 1)
