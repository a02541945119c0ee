"""Kairos-JAX: a world-action model in JAX. It imagines what happens next, and acts on it.

`import kairos_jax` costs nothing: a name below is imported when it is first used. Editors complete it all the same.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from kairos_jax import bridge as bridge
  from kairos_jax import codec as codec
  from kairos_jax import evaluation as evaluation
  from kairos_jax import export as export
  from kairos_jax import flow as flow
  from kairos_jax import interfaces as interfaces
  from kairos_jax import interop as interop
  from kairos_jax import model as model
  from kairos_jax import parallel as parallel
  from kairos_jax import probing as probing
  from kairos_jax import runtime as runtime
  from kairos_jax import serving as serving
  from kairos_jax import training as training
  from kairos_jax import understanding as understanding
  from kairos_jax.errors import KairosError as KairosError
  from kairos_jax.model import WorldActionModel as WorldActionModel
  from kairos_jax.model import named_config as named_config
  from kairos_jax.runtime import Stream as Stream
  from kairos_jax.runtime import WorldModel as WorldModel
  from kairos_jax.runtime import load as load

# The names above again, because the block above does not run; tests/test_namespace.py holds the two together.
_PACKAGES = (
  "bridge",
  "codec",
  "evaluation",
  "export",
  "flow",
  "interfaces",
  "interop",
  "model",
  "parallel",
  "probing",
  "runtime",
  "serving",
  "training",
  "understanding",
)
_NAMES = {
  "KairosError": "kairos_jax.errors",
  "Stream": "kairos_jax.runtime",
  "WorldActionModel": "kairos_jax.model",
  "WorldModel": "kairos_jax.runtime",
  "load": "kairos_jax.runtime",
  "named_config": "kairos_jax.model",
}

__all__ = sorted([*_PACKAGES, *_NAMES])


def __getattr__(name: str) -> Any:
  if name in _PACKAGES:
    return importlib.import_module(f"kairos_jax.{name}")
  if name in _NAMES:
    return getattr(importlib.import_module(_NAMES[name]), name)
  raise AttributeError(f"module 'kairos_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
