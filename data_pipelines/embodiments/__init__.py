"""Robots as data, one file each; to add one, add a file here and its name to `_FILES`."""

import importlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8

from data_pipelines.embodiments.base import Embodiment, Quantity
from data_pipelines.embodiments.compose import compose, filled, picture_size
from kairos_jax.errors import KairosError

__all__ = ["NAMES", "Embodiment", "Quantity", "compose", "filled", "get", "picture", "picture_size"]

_FILES = (
  "agibot_g1",
  "aloha",
  "bridge_widowx",
  "droid_franka",
  "fetch_arm",
  "hand",
  "libero_franka",
  "metaworld_sawyer",
  "none",
  "robotwin_aloha",
  "slide_arm",
  "turned_arm",
)
_ALL: dict[str, Embodiment] = {
  name: importlib.import_module(f"data_pipelines.embodiments.{name}").EMBODIMENT for name in _FILES
}
NAMES = tuple(_ALL)


def get(name: str) -> Embodiment:
  """The embodiment of this name.

  Raises:
    KairosError: there is none.
  """
  if name not in _ALL:
    raise KairosError(f"unknown embodiment {name!r}: {', '.join(NAMES)}, or a new file in data_pipelines/embodiments")
  return _ALL[name]


def picture(
  name: str, images: Mapping[str, UInt8[np.ndarray, "*T H W 3"]], size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "*T h w 3"]:
  """What a model sees of the named embodiment's cameras: one picture, or a video of them; raises as `compose` does."""
  return compose(get(name), images, size)
