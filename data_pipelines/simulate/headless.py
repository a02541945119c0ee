"""Loads MuJoCo so that it renders without a display: by EGL where that library is, else by OSMesa.

A MUJOCO_GL that is already set is respected. MuJoCo reads it once, on its first import.
"""

import ctypes.util
import importlib
import os
import sys

from kairos_jax.errors import KairosError


def load_mujoco() -> None:
  """Chooses the backend and imports MuJoCo with it.

  Raises:
    KairosError: neither library is installed, or the chosen one does not load.
  """
  if "MUJOCO_GL" not in os.environ and sys.platform.startswith("linux"):
    found = [name for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")) if ctypes.util.find_library(library)]
    if not found:
      raise no_opengl()
    os.environ["MUJOCO_GL"] = found[0]
  # The software rasterizer's own threads cost more than they give on tiny frames; processes share the work instead.
  os.environ.setdefault("LP_NUM_THREADS", "0")
  try:
    mujoco = importlib.import_module("mujoco")
  except (ImportError, AttributeError, RuntimeError) as error:  # PyOpenGL fails differently by what is missing.
    raise no_opengl() from error
  # A renderer that cannot start is destroyed half made: with these it goes without a word of its own.
  mujoco.Renderer._gl_context = mujoco.Renderer._mjr_context = None
  if hasattr(mujoco, "GLContext"):
    mujoco.GLContext._context = None


def no_opengl() -> KairosError:
  """The error that says how to get headless OpenGL."""
  return KairosError(
    f"no headless OpenGL for MuJoCo (MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}): apt-get install libegl1 "
    "libegl-mesa0 libgl1-mesa-dri, or apt-get install libosmesa6 and set MUJOCO_GL=osmesa"
  )
