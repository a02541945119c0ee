"""Kairos-JAX: a world-action model in JAX. It imagines what happens next, and acts on it."""

import importlib
from typing import Any

_PUBLIC = {
  "KairosError": "kairos_jax.errors",
  "Stream": "kairos_jax.runtime",
  "WorldActionModel": "kairos_jax.model",
  "WorldModel": "kairos_jax.runtime",
  "load": "kairos_jax.runtime",
  "named_config": "kairos_jax.model",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
  """Imports a public name when it is first used, so that `import kairos_jax` costs nothing."""
  if name not in _PUBLIC:
    raise AttributeError(f"module 'kairos_jax' has no attribute {name!r}")
  return getattr(importlib.import_module(_PUBLIC[name]), name)
