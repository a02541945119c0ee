"""What a robot's client sent, as a request that cannot fail any more: all is checked here, off the event loop."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from data_pipelines import embodiments
from data_pipelines.embodiments import Embodiment
from kairos_jax.errors import KairosError
from kairos_jax.runtime import WorldModel

MAX_FRAMES = 256  # of one request: some seconds, more than any robot waits for an answer
MAX_TEXT = 2_000  # characters
MAX_NAME = 100


@dataclasses.dataclass(frozen=True)
class Request:
  """One observation of one session.

  Attributes:
    frames: the pictures since the last request, oldest first, at the robot's control rate and the model's size.
    state: of the robot now, in its units.
    prompt: what to do; None goes on with what was said before.
    seed: of the noise; None lets the session count.
    previous: what is left of the chunk before, in the robot's units, if the new one shall continue it.
    delay: how many actions of it will have been executed when the answer comes.
    deadline: seconds after arrival at which the answer is worth nothing; None is the server's own.
    images: by camera, what the frames were made of.
  """

  frames: UInt8[np.ndarray, "T H W 3"]
  state: Float32[np.ndarray, "S"]
  prompt: str | None = None
  seed: int | None = None
  previous: Float32[np.ndarray, "n A"] | None = None
  delay: int = 0
  deadline: float | None = None
  images: Mapping[str, UInt8[np.ndarray, "T _ _ 3"]] = dataclasses.field(default_factory=dict)


class Reader:
  """Reads observations of one robot for one model."""

  def __init__(self, model: WorldModel, embodiment: str | None, *, chunking: bool = False):
    """`chunking`: read what is left of the chunk before. Raises KairosError if the model does not drive the robot."""
    self._chunking, self.horizon = chunking, model.saved.action_horizon
    robot = model.robot(embodiment)
    self.robot: Embodiment = robot.embodiment
    self.state_dim, self.action_dim = robot.state.dim, robot.action.dim
    self.size = model.saved.frame_size

  def read(self, message: Mapping[Any, Any]) -> Request:
    """A request. Whatever came is a `message`, keys of any kind included.

    Cameras are taken from `images` by name, or from `observation/NAME`; each is [H, W, 3], or [T, H, W, 3] with all
    frames since the last request. The state is `state` or `observation/state`.

    Raises:
      KairosError: something is missing, or is not what the metadata says.
    """
    images = message.get("images", {})
    if not isinstance(images, Mapping):
      raise KairosError(f"images is a {type(images).__name__}; it must be a map from camera to picture")
    flat = {name: message.get(f"observation/{name}") for name in self.robot.cameras}
    images = {name: images.get(name, flat[name]) for name in self.robot.cameras}
    if missing := [name for name, image in images.items() if not isinstance(image, np.ndarray)]:
      raise KairosError(f"camera {missing[0]!r} is missing; this robot has {', '.join(self.robot.cameras)}")
    request = self.request(self._frames(images), message.get("state", message.get("observation/state")), message)
    videos = {name: image if image.ndim == 4 else image[None] for name, image in images.items()}
    return dataclasses.replace(request, images=videos)

  def request(self, frames: UInt8[np.ndarray, "T H W 3"], state: Any, message: Mapping[Any, Any]) -> Request:
    """A request with frames of the model's size; raises as `read` does."""
    return Request(
      frames=frames,
      state=self._state(state),
      prompt=text(message, "prompt", MAX_TEXT),
      seed=_number(message, "seed", 2**64 - 1),
      **self._previous(message),
      deadline=self.deadline(message),
    )

  def deadline(self, message: Mapping[Any, Any]) -> float | None:
    """Seconds that a request has, None if it does not say; raises as `read` does."""
    return None if (ms := _number(message, "deadline_ms", 3_600_000)) is None else ms / 1000

  def _frames(self, images: Mapping[str, np.ndarray]) -> UInt8[np.ndarray, "T H W 3"]:
    shapes = {image.shape[:-3] for image in images.values()}
    if len(shapes) != 1 or any(0 in image.shape for image in images.values()):
      raise KairosError(f"pictures are {[list(image.shape) for image in images.values()]}; cameras need equally many")
    (times,) = shapes
    if len(times) > 1 or (times and times[0] > MAX_FRAMES):
      raise KairosError(f"pictures have leading axes {list(times)}; one of 1 to {MAX_FRAMES} frames is allowed")
    # A robot whose pictures have no size of their own is brought to the model's by its only camera.
    picture = embodiments.picture(self.robot.name, images, self.size)
    return picture if picture.ndim == 4 else picture[None]

  def _previous(self, message: Mapping[Any, Any]) -> dict[str, Any]:
    """What is left of the chunk before, where a request has it and this server goes on from it."""
    if not self._chunking or (left := message.get("previous")) is None:
      return {}
    if not isinstance(left, np.ndarray) or left.dtype.kind != "f" or left.shape[1:] != (self.action_dim,):
      raise KairosError(f"previous must be an array of {self.action_dim} numbers an action")
    delay = _number(message, "delay", self.horizon) or 0
    if not 0 < len(left) < self.horizon or delay > min(len(left), self.horizon - len(left)):
      allowed = (
        f"1 to {self.horizon - 1} of {self.horizon} actions, and no longer delay than what is left or was executed"
      )
      raise KairosError(f"previous has {len(left)} actions and delay is {delay}; allowed are {allowed}")
    if not np.isfinite(left).all():
      raise KairosError("previous must be finite")
    return {"previous": left.astype(np.float32), "delay": delay}

  def _state(self, state: Any) -> Float32[np.ndarray, "S"]:
    try:
      with np.errstate(over="ignore"):  # infinity is refused below
        state = np.asarray(state, np.float32)
    except (TypeError, ValueError):
      raise KairosError(f"state must be {self.state_dim} numbers") from None
    if state.shape != (self.state_dim,) or not np.isfinite(state).all():
      raise KairosError(f"state is {str(state.tolist())[:80]}; it must be {self.state_dim} finite numbers")
    return state


def text(message: Mapping[Any, Any], key: str, longest: int) -> str | None:
  """A text of a message, or None if it has none. Raises KairosError if it is something else or too long."""
  value = message.get(key)
  if value is not None and (not isinstance(value, str) or len(value) > longest):
    raise KairosError(f"{key} is a {type(value).__name__}; it must be a text of at most {longest} characters")
  return None if value is None else str(value)


def _number(message: Mapping[Any, Any], key: str, largest: int) -> int | None:
  value = message.get(key)
  if value is None:
    return None
  if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value <= largest:
    raise KairosError(f"{key} is {str(value)[:40]}; it must be a whole number of 0 to {largest}")
  return int(value)
