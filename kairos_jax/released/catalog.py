"""What there is: the models of experiments/released.py as descriptions, and their sizes."""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any

from experiments import released
from kairos_jax import assembly
from kairos_jax.errors import KairosError
from kairos_jax.interfaces import VideoCodec
from kairos_jax.interop import reference_names
from kairos_jax.interop.reference_names import Path, Place
from kairos_jax.model import ActionConfig, VideoConfig, WorldActionConfig
from kairos_jax.model.config import named_dtype

BYTES = {"float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class Released:
  """One released model.

  Attributes:
    config: its entry in experiments/released.py.
    model_config: of the towers, which compute in float32.
  """

  name: str
  config: Any
  model_config: WorldActionConfig

  @property
  def codec(self) -> VideoCodec:
    return assembly.make_codec(dict(kind="wan", **self.config.codec))

  def places(self) -> Mapping[Path, Place]:
    """Where each parameter of the towers lies in the official file."""
    return reference_names.places(self.model_config, bare=self.config.bare)

  def tower_shapes(self) -> dict[str, tuple[int, ...]]:
    """Every tensor of the official tower file."""
    return {name: place.shape for place in self.places().values() for name in place.names}

  def counts(self) -> dict[str, int]:
    """Parameters by part: "video", "action" where there is one, and "codec"."""
    found = {"video": 0, "action": 0} if self.model_config.action else {"video": 0}
    for path, place in self.places().items():
      found[path[0]] += len(place.names) * math.prod(place.shape)
    shapes: Any = self.codec.param_shapes()
    del shapes["latents"]  # the statistics of latents, which are no weights
    return {**found, "codec": _count(shapes)}

  def computing_in(self, dtype: str) -> WorldActionConfig:
    """The towers' config with another type of the computation, by its name."""
    kind = named_dtype(dtype)
    action = self.model_config.action
    return WorldActionConfig(
      video=dataclasses.replace(self.model_config.video, dtype=kind),
      action=action and dataclasses.replace(action, dtype=kind),
    )


def names() -> tuple[str, ...]:
  """Of all released models."""
  return tuple(released.MODELS)


def find(name: str) -> Released:
  """The released model of this name, in upper or lower case; "@tiny" behind it gives it the smallest sizes.

  Raises:
    KairosError: there is none.
  """
  base, at, scale = name.partition("@")
  base = next((known for known in released.MODELS if known.lower() == base.lower()), base)
  try:
    config = released.get_config(base + at + scale)
  except ValueError as error:
    close = difflib.get_close_matches(base, names(), n=1)
    raise KairosError(f"did you mean {close[0]}? {error}" if close else str(error)) from None
  video = config.video.to_dict()
  return Released(
    config.name,
    config,
    WorldActionConfig(
      video=VideoConfig(**video), action=None if config.action is None else ActionConfig(**config.action.to_dict())
    ),
  )


def _count(shapes: Any) -> int:
  return sum(map(_count, shapes.values())) if isinstance(shapes, dict) else math.prod(shapes.shape)
