"""Imagined videos that people watch and steer: each world is a stream that is imagined on, segment by segment.

Not thread-safe: one thread owns it, and the device with it. Everything that a world keeps is of constant size.
"""

import collections
import dataclasses
import itertools

import jax
import numpy as np
from jaxtyping import UInt8

from kairos_jax import seeds as seeds_lib
from kairos_jax.errors import KairosError
from kairos_jax.interfaces import num_frames
from kairos_jax.model.memory import require_constant_size
from kairos_jax.runtime import Stream, WorldModel

_KEPT_SECONDS = 60.0  # of video, for a download
_KEPT_BYTES = 64 << 20  # at most
_BACK = 32  # segments that can be rewound
_REREAD = 4  # latents that are read again under a new prompt


@dataclasses.dataclass(frozen=True)
class _Moment:
  """A world before a segment; streams are immutable, so that keeping one costs its own size alone."""

  stream: Stream
  prompt: str
  seed: int
  segment: int


class _World:
  def __init__(self, moment: _Moment, frames: collections.deque):
    self.now, self.frames = moment, frames
    self.past: collections.deque[_Moment] = collections.deque(maxlen=_BACK)


class Worlds:
  """The worlds of one model, by name.

  Attributes:
    segment: frames that are imagined at once.
  """

  def __init__(self, model: WorldModel, *, most: int, steps: int):
    """Has no world yet.

    Args:
      model: with a memory of constant size; it need not act.
      most: worlds at a time.
      steps: denoising steps of a segment.

    Raises:
      KairosError: the model's memory grows.
    """
    require_constant_size(model.saved.model_config)
    self._model, self._most, self._steps = model, most, steps
    self._worlds: dict[str, _World] = {}
    self._names = itertools.count(1)
    self.segment = num_frames(model.codec, 1, begins=False)

  @property
  def names(self) -> list[str]:
    """Of the worlds that there are."""
    return list(self._worlds)

  def begin(self, picture: UInt8[np.ndarray, "H W 3"], prompt: str, seed: int, name: str | None = None) -> str:
    """Begins a world, or one anew, with a picture that stands still, and returns its name.

    Raises:
      KairosError: there are too many worlds, or the picture has another size than the model's.
    """
    if picture.shape != (*self._model.saved.frame_size, 3):
      height, width = self._model.saved.frame_size
      raise KairosError(f"the picture is {picture.shape}; this model sees {height} x {width} pixels")
    name = self._new() if name is None else name
    frames = np.repeat(picture[None], self._model.codec.first_frames, axis=0)
    moment = _Moment(self._model.prefill(frames, prompt), prompt, seed, 0)
    self._worlds[name] = _World(moment, collections.deque(frames, maxlen=self._longest(picture)))
    return name

  def step(self, name: str) -> UInt8[np.ndarray, "T H W 3"]:
    """Imagines the next segment of a world."""
    world, model = self._get(name), self._model
    now = world.now
    noise = seeds_lib.derive(now.seed, "world", now.segment)
    latents = model.imagine_latents(now.stream, model.latents_of(self.segment), seed=[noise], steps=self._steps)
    pixels, stream = model.decode(now.stream, latents)
    stream = jax.block_until_ready(model.extend_latents(stream, latents))
    world.past.append(now)
    world.now = dataclasses.replace(now, stream=stream, segment=now.segment + 1)
    world.frames.extend(pixels[0])
    return pixels[0]

  def prompt(self, name: str, text: str) -> None:
    """Goes on under other words: the latest frames are read again, because memory depends on the words."""
    world, count = self._get(name), num_frames(self._model.codec, _REREAD)
    latest = list(world.frames)[-count:]
    recent = np.stack([latest[0]] * (count - len(latest)) + latest)  # of one length, so that it compiles once
    world.past.append(world.now)
    world.now = dataclasses.replace(world.now, stream=self._model.prefill(recent, text), prompt=text)

  def rewind(self, name: str, segments: int) -> int:
    """Goes back by so many segments, or as many as are kept, and returns how many these were."""
    world, back = self._get(name), 0
    while back < segments and world.past:
      before, world.now = world.now, world.past.pop()
      for _ in range(self.segment if before.segment > world.now.segment else 0):
        world.frames.pop()
      back += before.segment > world.now.segment
    return back

  def seed(self, name: str, seed: int) -> None:
    """What comes next is drawn from another seed."""
    world = self._get(name)
    world.now = dataclasses.replace(world.now, seed=seed)

  def fork(self, name: str) -> str:
    """Copies a world, and returns the copy's name. Raises KairosError if there are too many."""
    world, copy = self._get(name), self._new()
    self._worlds[copy] = _World(world.now, world.frames.copy())
    self._worlds[copy].past = world.past.copy()
    return copy

  def end(self, name: str) -> None:
    """Forgets a world. Nothing happens if there is none."""
    self._worlds.pop(name, None)

  def about(self, name: str) -> tuple[str, int]:
    """A world's prompt and seed."""
    now = self._get(name).now
    return now.prompt, now.seed

  def video(self, name: str) -> UInt8[np.ndarray, "T H W 3"]:
    """The latest minute of a world."""
    return np.stack(list(self._get(name).frames))

  def nbytes(self, name: str) -> int:
    """Of a world's stream."""
    return sum(x.nbytes for x in jax.tree.leaves(self._get(name).now.stream))

  def _get(self, name: str) -> _World:
    if name not in self._worlds:
      raise KairosError(f"there is no world {name!r}")
    return self._worlds[name]

  def _new(self) -> str:
    if len(self._worlds) >= self._most:
      raise KairosError(f"there are {self._most} worlds already; one ends when nobody watches it")
    return f"world-{next(self._names)}"

  def _longest(self, picture: np.ndarray) -> int:
    codec = self._model.codec
    least = num_frames(codec, _REREAD) + _BACK * self.segment
    return max(least, min(round(_KEPT_SECONDS * self._model.saved.video_fps), _KEPT_BYTES // picture.nbytes))
