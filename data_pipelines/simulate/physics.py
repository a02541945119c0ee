"""Stage I: bodies that fall, slide down a ramp, collide or swing, described in words.

Gravity is a sixth of the Earth's, as on the Moon, so that a fall lasts several frames at 10 Hz. Bodies differ in
shape, color, size and speed; one model holds them all, and those a clip does not use are hidden.
"""

from collections.abc import Sequence

import mujoco
import numpy as np
from jaxtyping import Float

from data_pipelines.records import Clip
from data_pipelines.simulate.filming import simulated_clip
from data_pipelines.simulate.scene import COLORS, Scene

FRAMES = 33
_GRAVITY = -1.62  # m/s^2
_PALETTE = [name for name in COLORS if name != "gray"]  # Gray is the ramp's.
_NAMES = {"sphere": "ball", "box": "cube", "cylinder": "cylinder"}
_COPIES = 2  # of every shape
_RADIUS = 0.06  # m, before scaling
_SIZES = {"small": 0.8, "": 1.0, "large": 1.3}
_RAMP = np.array([0.26, 0.16, 0.01])  # m, half sizes
_PIVOT = np.array([0.0, 0.18, 0.50])  # m
_LENGTH = 0.40  # m, of the pendulum

# The low damping ratio lets bodies bounce; the priority puts their friction above the floor's.
_CONTACT = 'solref=".02 .1" friction=".2 .005 .001" condim="4" priority="1"'
_EXTENT = {"sphere": f"{_RADIUS}", "box": f"{_RADIUS} {_RADIUS} {_RADIUS}", "cylinder": f"{_RADIUS} {_RADIUS}"}
_BODIES = "".join(
  f'<body name="{shape}{i}"><freejoint/>'
  f'<geom name="{shape}{i}" type="{shape}" size="{_EXTENT[shape]}" mass=".2" {_CONTACT}/></body>'
  for shape in _NAMES
  for i in range(_COPIES)
)
_BODIES += f"""
  <body name="ramp" mocap="true">
    <geom name="ramp" type="box" size="{_RAMP[0]} {_RAMP[1]} {_RAMP[2]}" {_CONTACT}/>
  </body>
  <body name="pendulum" pos="{_PIVOT[0]} {_PIVOT[1]} {_PIVOT[2]}">
    <joint name="swing" type="hinge" axis="0 1 0" damping=".0005"/>
    <geom name="rod" type="capsule" fromto="0 0 0 0 0 -{_LENGTH}" size=".012" mass=".01" contype="0" conaffinity="0"/>
    <geom name="bob" type="sphere" pos="0 0 -{_LENGTH}" size="{_RADIUS}" mass=".3" {_CONTACT}/>
  </body>
"""

Vector = Sequence[float] | np.ndarray


class Physics:
  """Films free motion."""

  def __init__(self, size: int):
    self._scene = Scene(_BODIES, size, gravity=_GRAVITY, timestep=0.0025)
    model = self._scene.model
    self._unscaled = {
      name: getattr(model, name).copy()
      for name in ("geom_size", "geom_rbound", "geom_aabb", "body_mass", "body_inertia", "body_ipos")
    }

  def clip(self, rng: np.random.Generator) -> Clip:
    """The clip that `rng` draws: 33 frames, no states, no actions, no instruction."""
    self._clear()
    happening = str(rng.choice(["fall", "slide", "collide", "swing"]))
    caption = {"fall": self._fall, "slide": self._slide, "collide": self._collide, "swing": self._swing}[happening](rng)
    self._scene.forward()
    frames = []
    for _ in range(FRAMES):
      frames.append(self._scene.render())
      self._scene.step()
    return simulated_clip(frames, source="physics", embodiment="none", caption=caption)

  def _fall(self, rng: np.random.Generator) -> str:
    words = []
    for x in rng.permutation([-0.24, 0.0, 0.24])[: rng.integers(1, 4)]:
      position = [x + rng.uniform(-0.04, 0.04), rng.uniform(-0.1, 0.25), rng.uniform(0.25, 0.5)]
      velocity = [*rng.uniform(-0.12, 0.12, 2), 0]
      words.append(self._add(rng, position, velocity, spin=rng.normal(0, 2, 3))[0])
    return f"{_join(words)} {_verb('fall', words)} to the ground and {_verb('bounce', words)}"

  def _slide(self, rng: np.random.Generator) -> str:
    side, angle = rng.choice([-1, 1]), rng.uniform(0.35, 0.65)
    data, y = self._scene.data, rng.uniform(0.0, 0.2)
    center = np.array([side * -0.12, y, _RAMP[0] * np.sin(angle) + 0.02])
    tilt = np.array([np.cos(angle / 2), 0, side * np.sin(angle / 2), 0])
    data.mocap_pos[0], data.mocap_quat[0] = center, tilt
    self._show("ramp", COLORS["gray"])
    along, normal = _axes(tilt)
    # The ramp goes down towards `side`; the body starts near its upper end, just clear of it.
    start = center - side * along * rng.uniform(0.1, 0.2) + normal * (_RAMP[2] + 0.085)
    word, shape = self._add(rng, start, [0, 0, 0], quat=tilt)
    moves = "rolls" if shape == "sphere" else "slides"
    return f"{word} {moves} down a gray ramp to the {'right' if side > 0 else 'left'}"

  def _collide(self, rng: np.random.Generator) -> str:
    side, y, speed = rng.choice([-1, 1]), rng.uniform(-0.1, 0.2), rng.uniform(0.4, 0.8)
    moving, _ = self._add(rng, [-side * 0.36, y, None], [side * speed, 0, 0], shape="sphere")
    resting, _ = self._add(rng, [side * rng.uniform(0, 0.12), y + rng.uniform(-0.03, 0.03), None], [0, 0, 0])
    return f"{moving} rolls to the {'right' if side > 0 else 'left'} and hits {resting}"

  def _swing(self, rng: np.random.Generator) -> str:
    color = rng.choice(_PALETTE)
    self._show("bob", COLORS[color])
    self._show("rod", COLORS["white"], collides=False)
    angle = rng.choice([-1, 1]) * rng.uniform(0.5, 1.2)
    self._scene.data.joint("swing").qpos = angle
    caption = f"a pendulum with {_article(color)} {color} bob swings from side to side"
    if rng.random() < 0.5:
      # A positive angle about +y starts the bob at -x: it comes down towards +x.
      word, _ = self._add(rng, [np.sign(angle) * 0.15, _PIVOT[1], None], [0, 0, 0], shape="sphere")
      return f"{caption} and hits {word}"
    return caption

  def _clear(self) -> None:
    """Hides every body and takes it out of all contacts."""
    model = self._scene.model
    self._scene.reset()
    for name, values in self._unscaled.items():
      getattr(model, name)[:] = values
    model.geom_rgba[1:, 3] = 0
    model.geom_contype[1:] = model.geom_conaffinity[1:] = 0
    for i in range(_COPIES * len(_NAMES)):
      self._scene.data.qpos[7 * i : 7 * i + 3] = (0, 0, -5 - i)

  def _show(self, geom: str, rgb: tuple[float, float, float], collides: bool = True) -> None:
    self._scene.paint(geom, rgb)
    self._scene.model.geom(geom).contype = self._scene.model.geom(geom).conaffinity = int(collides)

  def _add(
    self,
    rng: np.random.Generator,
    position: Sequence[float | None] | Float[np.ndarray, "3"],
    velocity: Vector,
    spin: Vector = (0, 0, 0),
    quat: Vector = (1, 0, 0, 0),
    shape: str | None = None,
  ) -> tuple[str, str]:
    """Brings in a hidden body of random look; one of height None rests on the floor. Returns its words and shape."""
    scene = self._scene
    hidden = [
      (name, i)
      for name in _NAMES
      for i in range(_COPIES)
      if scene.model.geom(f"{name}{i}").rgba[3] == 0 and shape in (None, name)
    ]
    shape, i = hidden[rng.integers(len(hidden))]
    size, color = str(rng.choice(list(_SIZES))), str(rng.choice(_PALETTE))
    self._scale(f"{shape}{i}", _SIZES[size])
    self._show(f"{shape}{i}", COLORS[color])
    joint = scene.data.joint(scene.model.body(f"{shape}{i}").jntadr[0])
    height = _RADIUS * _SIZES[size] + 0.001 if position[2] is None else position[2]
    joint.qpos = [position[0], position[1], height, *quat]
    joint.qvel = [*velocity, *spin]
    looks = f"{size} {color} {_NAMES[shape]}".strip()
    return f"{_article(looks)} {looks}", shape

  def _scale(self, name: str, scale: float) -> None:
    """Resizes a body of one geom at constant density, with all that MuJoCo derives from its size."""
    model = self._scene.model
    geom, body = model.geom(name).id, model.body(name).id
    for field in ("geom_size", "geom_rbound", "geom_aabb"):
      getattr(model, field)[geom] *= scale
    model.body_mass[body] *= scale**3
    model.body_inertia[body] *= scale**5
    mujoco.mj_setConst(model, mujoco.MjData(model))


def _axes(quat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The rotated x and z axes."""
  matrix = np.zeros(9)
  mujoco.mju_quat2Mat(matrix, quat)
  return matrix.reshape(3, 3)[:, 0], matrix.reshape(3, 3)[:, 2]


def _article(words: str) -> str:
  return "an" if words[0] in "aeiou" else "a"


def _join(words: list[str]) -> str:
  return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _verb(verb: str, subjects: list[str]) -> str:
  return verb if len(subjects) > 1 else f"{verb}s"
