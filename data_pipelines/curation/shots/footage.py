"""Synthetic footage with known cuts, dissolves, fades, flashes, pans and look-alike scenes, to measure detectors on."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from data_pipelines.curation.shots.detectors import Transition

SIZE = (90, 160)
_WORLD = 3  # a shot's camera moves over a picture this many times as wide
_DISSOLVE, _FADE = 12, 10  # frames, the latter on either side


class Footage(NamedTuple):
  """A video and what is true of it.

  Attributes:
    frames: of all shots.
    truth: its transitions, in order.
    flashes: frames that are no transition although everything changes.
  """

  frames: UInt8[np.ndarray, "T 90 160 3"]
  truth: list[Transition]
  flashes: list[int]


def make(seed: int, shots: int = 60) -> Footage:
  """The same seed gives the same video; some 55 frames a shot."""
  rng = np.random.default_rng(seed)
  frames: list[Float32[np.ndarray, "90 160 3"]] = []
  truth: list[Transition] = []
  flashes: list[int] = []
  world = _world(rng)
  for number in range(shots):
    # A look-alike: the scene before, with a tenth of another one in it, from another place.
    other = _world(rng)
    world = 0.85 * world + 0.15 * other if number % 12 == 5 else other
    shot = list(_shot(world, int(rng.integers(25, 90)), rng))
    if number % 7 == 3:
      middle = len(shot) // 2
      for after, strength in ((0, 0.8), (1, 0.5)):
        shot[middle + after] = shot[middle + after] * (1 - strength) + 255 * strength
    kind = rng.choice(["cut", "dissolve", "fade"], p=[0.7, 0.15, 0.15]) if number else "start"
    if kind == "dissolve":
      start = len(frames) - _DISSOLVE
      for index, share in enumerate(np.arange(1, _DISSOLVE + 1) / (_DISSOLVE + 1)):
        frames[start + index] = frames[start + index] * (1 - share) + shot[index] * share
      shot = shot[_DISSOLVE:]
      truth.append(Transition(start, len(frames), "dissolve"))
    elif kind == "fade":
      for index in range(_FADE):
        frames[index - _FADE] = frames[index - _FADE] * (1 - (index + 1) / _FADE)
        shot[index] = shot[index] * (index / _FADE)
      truth.append(Transition(len(frames) - _FADE, len(frames) + _FADE, "fade"))
    elif kind == "cut":
      truth.append(Transition(len(frames), len(frames), "cut"))
    if number % 7 == 3:
      flashes.append(len(frames) + middle - (_DISSOLVE if kind == "dissolve" else 0))
    frames += shot
  return Footage(np.stack([np.clip(frame, 0, 255).astype(np.uint8) for frame in frames]), truth, flashes)


def _world(rng: np.random.Generator) -> Float32[np.ndarray, "H W 3"]:
  """A picture of soft colors, fine texture and boxes."""
  height, width = _WORLD * SIZE[0], _WORLD * SIZE[1]
  world = rng.integers(0, 256, 3) + _resized(rng.normal(size=(8, 12, 3)), height, width) * rng.uniform(25, 60)
  world += _resized(rng.normal(size=(90, 160, 3)), height, width) * rng.uniform(5, 25)
  for _ in range(rng.integers(4, 14)):
    top, left = rng.integers(0, height), rng.integers(0, width)
    tall, wide = rng.integers(15, 100, 2)
    world[top : top + tall, left : left + wide] = rng.integers(0, 256, 3)
  return np.clip(world, 0, 255).astype(np.float32)


def _resized(values: np.ndarray, height: int, width: int) -> Float32[np.ndarray, "H W 3"]:
  """Linear between the values, first along the columns, then along the rows."""
  rows, columns = np.linspace(0, len(values) - 1, height), np.linspace(0, values.shape[1] - 1, width)
  for axis, places in ((0, rows), (1, columns)):
    low = np.minimum(places.astype(int), values.shape[axis] - 2)
    share = (places - low).reshape([-1 if index == axis else 1 for index in range(3)])
    values = np.take(values, low, axis) * (1 - share) + np.take(values, low + 1, axis) * share
  return values.astype(np.float32)


def _shot(world: np.ndarray, count: int, rng: np.random.Generator) -> Iterator[Float32[np.ndarray, "90 160 3"]]:
  """A camera that rests, pans or whips, and zooms a little; a disc that moves through the picture; noise."""
  limit = np.array(world.shape[:2]) - SIZE
  speed = rng.uniform(-4, 4, 2) * rng.choice([0, 1, 3], p=[0.3, 0.5, 0.2])
  zoom, place = rng.uniform(-0.004, 0.004), np.array(SIZE) + rng.uniform(-40, 40, 2)
  color, drift, disc = rng.integers(0, 256, 3), rng.uniform(-3, 3, 2), rng.uniform(25, 75, 2)
  noise = rng.normal(0, 3, (2 * SIZE[0], 2 * SIZE[1], 1)).astype(np.float32)
  rows, columns = np.arange(SIZE[0]), np.arange(SIZE[1])
  for index in range(count):
    scale = 1 + zoom * index
    top, left = np.clip(place + speed * index, 0, limit)
    row = np.clip(np.rint(top + rows / scale), 0, world.shape[0] - 1).astype(int)
    column = np.clip(np.rint(left + columns / scale), 0, world.shape[1] - 1).astype(int)
    frame = world[row[:, None], column[None]]
    center = (disc + drift * index) % SIZE
    inside = (rows[:, None] - center[0]) ** 2 + (columns[None] - center[1]) ** 2 < 12**2
    down, right = rng.integers(0, SIZE)
    grain = noise[down : down + SIZE[0], right : right + SIZE[1]]
    yield (np.where(inside[..., None], color, frame) + grain).astype(np.float32)
