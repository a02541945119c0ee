"""Balls, a bar and an effector on three slides: the table of Stage II (a hand) and Stage III (a robot arm)."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float

from data_pipelines.simulate.scene import COLORS, Scene

REACH = np.array([[-0.4, -0.3, 0.05], [0.4, 0.3, 0.35]])  # m, lowest and highest tip position
HOME = np.array([0.0, 0.0, 0.2])  # m
STEP = 0.06  # m a full command moves the servo target ahead of the tip
TOUCH = 0.06  # m between the tip and a ball's center
_TRAVEL_HEIGHT = 0.30  # m
_CONE_BASE, _CONE_SLOPE = 0.05, 1.5  # m around the target where the tip may be as low as it is; m up a m outward
BALLS = ("red", "blue")
_MIDDLE, _HALF = np.array([0.0, 0.01]), np.array([0.33, 0.21])  # m, where balls lie on the table
_TURNS = 0.1  # chance, each frame, that a moving ball takes another direction

ARM_COLOR = (0.98, 0.85, 0.18)


def arm(color: tuple[float, float, float], tip: tuple[float, float, float]) -> str:
  """A robot's last link in one color, the sphere on top of it in another."""
  link, sphere = (" ".join(map(str, rgb)) for rgb in (color, tip))
  return f"""
    <geom name="arm0" type="capsule" fromto="0 0 .016 0 0 .13" size=".03" rgba="{link} 1" mass=".5"/>
    <geom name="arm1" type="sphere" pos="0 0 .14" size=".044" rgba="{sphere} 1" mass="0"/>
  """


# An index finger points down at the tip; the forearm comes from the front, towards the viewer.
HAND = """
  <geom name="skin0" type="capsule" fromto="0 0 .012 0 -.015 .075" size=".017" rgba="0 0 0 1" mass=".2"/>
  <geom name="skin1" type="box" pos=".012 -.055 .095" size=".050 .046 .020" euler="-12 0 0" rgba="0 0 0 1" mass=".2"/>
  <geom name="skin2" type="capsule" fromto=".030 -.015 .088 .030 -.022 .052" size=".015" rgba="0 0 0 1" mass=".05"/>
  <geom name="skin3" type="capsule" fromto=".054 -.028 .088 .054 -.035 .058" size=".013" rgba="0 0 0 1" mass=".05"/>
  <geom name="skin4" type="capsule" fromto="-.030 -.070 .090 -.062 -.030 .072" size=".015" rgba="0 0 0 1" mass=".05"/>
  <geom name="sleeve" type="capsule" fromto=".012 -.105 .105 .02 -.26 .16" size=".030" rgba="0 0 0 1" mass=".05"/>
"""

_BODIES = """
  <geom name="bar" type="box" size=".34 .035 .035" pos="0 .44 .05" contype="0" conaffinity="0"/>
  {balls}
  <body name="effector" pos="0 0 .2" gravcomp="1">
    <joint name="x" type="slide" axis="1 0 0" range="-.4 .4" limited="true"/>
    <joint name="y" type="slide" axis="0 1 0" range="-.3 .3" limited="true"/>
    <joint name="z" type="slide" axis="0 0 1" range="-.15 .15" limited="true"/>
    {effector}
  </body>
"""
_BALL = """
  <body name="ball{i}" mocap="true"><geom name="ball{i}" type="sphere" size=".058" contype="0" conaffinity="0"/></body>
"""
_SERVOS = """
  <position joint="x" kp="60" kv="12"/><position joint="y" kp="60" kv="12"/><position joint="z" kp="80" kv="12"/>
"""

BALL_COLORS = {name: COLORS[name] for name in BALLS}


class Tabletop(Scene):
  """The scene's state: `balls` [N, 3] (m), their `headings` [N] (rad), the tip's position and the bar's color."""

  def __init__(
    self,
    effector: str,
    size: int,
    camera: Literal["front", "side"] = "front",
    colors: Mapping[str, tuple[float, float, float]] = BALL_COLORS,
  ):
    """`colors` are the balls, by name."""
    balls = "".join(_BALL.format(i=i) for i in range(len(colors)))
    super().__init__(_BODIES.format(effector=effector, balls=balls), size, _SERVOS, camera=camera)
    self.model.geom_contype[1:] = 0  # Touching is a distance here: nothing pushes anything.
    for i, rgb in enumerate(colors.values()):
      self.paint(f"ball{i}", rgb)
    self._names = tuple(colors)
    self.balls, self.headings = np.zeros((len(colors), 3)), np.zeros(len(colors))

  def scatter(self, rng: np.random.Generator) -> None:
    """Places two balls apart from each other and from the tip, which starts near home."""
    self.reset()
    while True:
      balls = rng.uniform([-0.33, -0.20, 0.06], [0.33, 0.22, 0.14], (2, 3))
      apart = np.linalg.norm(balls[0, :2] - balls[1, :2])
      if apart > 0.24 and np.linalg.norm(balls[:, :2], axis=1).min() > 0.12:
        break
    self.lay(balls)

  def lay(self, balls: Float[np.ndarray, "N 3"]) -> None:
    """Puts the balls there (m)."""
    self.balls = self.data.mocap_pos[:] = balls
    self.headings = np.zeros(len(balls))

  def move_balls(self, rng: np.random.Generator, meters: float) -> None:
    """Moves each ball so far across the table, in its direction, which changes now and then and at the table's edge."""
    count = len(self.balls)
    turns = rng.random(count) < _TURNS
    self.headings = np.where(turns, rng.uniform(0, 2 * np.pi, count), self.headings)
    step = meters * np.stack([np.cos(self.headings), np.sin(self.headings)], axis=1)
    outside = np.abs(self.balls[:, :2] + step - _MIDDLE) > _HALF
    step = np.where(outside, -step, step)
    self.headings = np.arctan2(step[:, 1], step[:, 0])
    self.balls[:, :2] += step
    self.data.mocap_pos[:] = self.balls

  def place_tip(self, offset: Float[np.ndarray, "3"]) -> None:
    """Puts the tip at rest at HOME + offset (m)."""
    self.data.qpos[:] = self.data.ctrl[:] = offset
    self.forward()

  @property
  def tip(self) -> Float[np.ndarray, "3"]:
    return self.data.qpos + HOME

  def drive(self, command: Float[np.ndarray, "3"]) -> None:
    """Servoes for one frame towards the tip's position plus STEP times the command, clipped to [-1, 1]."""
    target = self.tip + STEP * np.clip(command, -1, 1)
    self.data.ctrl[:] = np.clip(target, *REACH) - HOME
    self.step()

  def reach(self, target: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """The command that brings the tip to `target` from above: travels high, clear of both balls, then descends."""
    aim = target.copy()
    if np.linalg.norm(target[:2] - self.tip[:2]) > 0.05:
      aim[2] = max(target[2], _TRAVEL_HEIGHT)
    return np.clip((aim - self.tip) * 12, -1, 1)

  def chase(self, target: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """The command that brings the tip to a `target` that moves: down a cone, lower the nearer it is from above.

    `reach` dives or climbs at one distance. Who knows the target to a few centimeters can't tell there which, and
    learns to hover; how high to be on a cone is never in doubt by more than where the target is.
    """
    aim = target.copy()
    outside = max(0.0, np.linalg.norm(target[:2] - self.tip[:2]) - _CONE_BASE)
    aim[2] = max(target[2], min(_TRAVEL_HEIGHT, target[2] + _CONE_SLOPE * outside))
    return np.clip((aim - self.tip) * 12, -1, 1)

  def touching(self) -> list[str]:
    """Names of the balls within TOUCH of the tip."""
    distance = np.linalg.norm(self.balls - self.tip, axis=1)
    return [name for name, d in zip(self._names, distance, strict=True) if d < TOUCH]

  def show_bar(self, color: str) -> None:
    self.paint("bar", COLORS[color])
