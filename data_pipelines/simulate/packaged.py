"""Simulators that other packages ship: how they are imported, seen, and refused in one line."""

import atexit
import contextlib
import importlib
import io
import warnings
from types import ModuleType
from typing import NamedTuple

import mujoco
import numpy as np
from jaxtyping import UInt8

from data_pipelines.simulate.rendering import make_renderer
from kairos_jax.errors import KairosError


def simulator(module: str, extra: str = "robots") -> ModuleType:
  """A module of a simulator, which an extra of this project brings.

  Raises:
    KairosError: it is not installed.
  """
  try:
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # what they announce of other versions
      warnings.simplefilter("ignore")
      return importlib.import_module(module)
  except ImportError as error:
    package = module.partition(".")[0].replace("_", "-")
    raise KairosError(f"{package} does not load ({error}): pip install 'kairos-jax[{extra}]'") from error


class Mark(NamedTuple):
  """What of a scene shows where to go: a site, or all geoms of a body, by name."""

  kind: mujoco.mjtObj
  name: str


class Viewpoint:
  """A camera at a place of our own in a scene of somebody else, and one renderer for all copies of that scene."""

  def __init__(
    self, model: mujoco.MjModel, size: int, *, lookat: tuple[float, float, float], distance: float, turn: float
  ):
    """Looks down by 35 degrees, without shadows and multisampling, which cost more than all else.

    Args:
      model: for drawing alone; what moves comes with each copy's data.
      size: of the picture, pixels.
      lookat: the picture's middle, m.
      distance: from there, m.
      turn: around it, degrees.

    Raises:
      KairosError: the size is out of range, or no OpenGL context can be made.
    """
    model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
    self._model, self._camera = model, mujoco.MjvCamera()
    self._camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    self._camera.lookat[:], self._camera.distance = lookat, distance
    self._camera.azimuth, self._camera.elevation = turn, -35.0
    self._renderer = make_renderer(model, size)
    atexit.register(self._renderer.close)  # Before MuJoCo ends the display, or the destructor complains.

  def render(self, data: mujoco.MjData) -> UInt8[np.ndarray, "H W 3"]:
    """The picture of one copy."""
    self._renderer.update_scene(data, self._camera)
    return self._renderer.render()

  def pixels(self, data: mujoco.MjData, mark: Mark) -> int:
    """How many of the picture's pixels show the mark."""
    index = mujoco.mj_name2id(self._model, mark.kind, mark.name)
    kind, indices = mark.kind, np.array([index])
    if mark.kind == mujoco.mjtObj.mjOBJ_BODY:
      kind, indices = mujoco.mjtObj.mjOBJ_GEOM, np.flatnonzero(self._model.geom_bodyid == index)
    self._renderer.update_scene(data, self._camera)
    self._renderer.enable_segmentation_rendering()
    try:
      shown = self._renderer.render()
    finally:
      self._renderer.disable_segmentation_rendering()
    return int((np.isin(shown[..., 0], indices) & (shown[..., 1] == int(kind))).sum())
