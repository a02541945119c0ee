"""What every embedded scene shares: the camera, the light, the floor, the colors and the renderer."""

import atexit
from typing import Literal

import mujoco
import numpy as np
from jaxtyping import UInt8

from data_pipelines.simulate.rendering import check_size, make_renderer

FPS = 10.0  # Hz, frames and control

COLORS = {
  "red": (0.90, 0.12, 0.12),
  "blue": (0.12, 0.28, 0.98),
  "green": (0.10, 0.68, 0.25),
  "yellow": (0.98, 0.82, 0.12),
  "orange": (0.98, 0.48, 0.08),
  "purple": (0.58, 0.22, 0.80),
  "white": (0.96, 0.96, 0.96),
  "gray": (0.50, 0.50, 0.50),
}

# NOTE: the floor is a box because a software rasterizer draws a MuJoCo plane ten times slower.
_WORLD = """
<mujoco>
  <option timestep="{timestep}" integrator="implicitfast" gravity="0 0 {gravity}"/>
  <visual>
    <quality shadowsize="0" offsamples="0" numslices="16" numstacks="10" numquads="1"/>
    <global fovy="41"/>
    <headlight ambient=".45 .45 .45" diffuse=".3 .3 .3" specular="0 0 0"/>
  </visual>
  <worldbody>
    <light pos="-.5 -.6 2" dir=".25 .3 -1" directional="true" diffuse=".5 .5 .5" specular=".15 .15 .15"/>
    <geom name="floor" type="box" size="2 2 .1" pos="0 0 -.1" rgba=".27 .30 .35 1"/>
    <camera name="front" pos="0 -.49 1.18" xyaxes="1 0 0 0 .857 .515"/>
    <camera name="side" pos=".245 -.424 1.18" xyaxes=".866 .5 0 -.4285 .742 .515"/>
    {bodies}
  </worldbody>
  <actuator>{actuators}</actuator>
</mujoco>
"""


class Scene:
  """One compiled model with its data and renderer; bodies are moved and recolored, never recompiled."""

  def __init__(
    self,
    bodies: str,
    size: int,
    actuators: str = "",
    gravity: float = -9.81,
    timestep: float = 0.01,
    camera: Literal["front", "side"] = "front",
  ):
    """Compiles MJCF `bodies` into the shared world, seen at `size` x `size` pixels.

    Gravity is in m/s^2, the time step in s. The side camera is the front one, turned by 30 degrees around the table.

    Raises:
      KairosError: the size is out of range, or no OpenGL context can be made.
    """
    check_size(size)
    self.model = mujoco.MjModel.from_xml_string(
      _WORLD.format(bodies=bodies, actuators=actuators, gravity=gravity, timestep=timestep)
    )
    self.data = mujoco.MjData(self.model)
    self._camera = camera
    self._renderer = make_renderer(self.model, size, max_geom=64)
    atexit.register(self._renderer.close)  # Before MuJoCo ends the display, or the destructor complains.

  def render(self) -> UInt8[np.ndarray, "H W 3"]:
    self._renderer.update_scene(self.data, camera=self._camera)
    return self._renderer.render()

  def reset(self) -> None:
    mujoco.mj_resetData(self.model, self.data)

  def forward(self) -> None:
    mujoco.mj_forward(self.model, self.data)

  def step(self) -> None:
    """Advances 1 / FPS seconds."""
    mujoco.mj_step(self.model, self.data, round(1 / (FPS * self.model.opt.timestep)))

  def paint(self, geom: str, rgb: tuple[float, float, float], alpha: float = 1.0) -> None:
    self.model.geom(geom).rgba = (*rgb, alpha)
