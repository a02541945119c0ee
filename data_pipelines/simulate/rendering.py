"""Renderers of MuJoCo scenes without a display: their sizes, and what helps where there is none."""

import mujoco

from data_pipelines.simulate.headless import no_opengl
from kairos_jax.errors import KairosError


def check_size(size: int) -> None:
  """Raises KairosError for pictures of so many pixels, if they are too small or too large."""
  if not 8 <= size <= 1024:
    raise KairosError(f"frame size {size} px is out of range: 8 to 1024")


def make_renderer(model: mujoco.MjModel, size: int, max_geom: int = 10_000) -> mujoco.Renderer:
  """A renderer of `size` x `size` pixels.

  Args:
    model: whose buffer is made as large.
    size: of the picture, pixels.
    max_geom: shapes that it can draw.

  Raises:
    KairosError: the size is out of range, or no OpenGL context can be made.
  """
  check_size(size)
  model.vis.global_.offwidth = model.vis.global_.offheight = size
  try:
    return mujoco.Renderer(model, size, size, max_geom)
  except Exception as error:  # Each backend fails in its own way; the cure is the same.
    raise no_opengl() from error
