"""What training, the runtime and evaluation ask of the parts around the towers. Nothing here imports a part.

A part is a small hashable description (sizes, strides); its parameters and its streaming state are arguments of its
methods, so that they can be sharded, donated, frozen and saved like any other arrays.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.struct
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree, UInt8


@flax.struct.dataclass
class Context:
  """What both towers read by cross-attention: embedded text and images, robot state.

  Attributes:
    tokens: before the towers' own text embedding.
    mask: True where there is a token; None means everywhere.
  """

  tokens: Float[Array, "B N text_dim"]
  mask: Bool[Array, "B N"] | None = None


@runtime_checkable
class VideoCodec(Protocol):
  """Pixels to latents and back, causal in time: a latent depends on no frame after its own.

  A video begins with a chunk of `first_frames` frames, which become one latent; every later latent holds `time_stride`
  frames. The streaming state is one pytree whose leaves have a leading batch axis; a codec without one uses ().
  """

  @property
  def channels(self) -> int:
    """Numbers in one latent pixel."""

  @property
  def first_frames(self) -> int:
    """Frames in the first latent of a video."""

  @property
  def time_stride(self) -> int:
    """Frames in every later latent."""

  @property
  def space_stride(self) -> int:
    """Pixels along a latent pixel's height and width."""

  def fit(
    self, clips: Iterable[UInt8[np.ndarray, "_ H W 3"]], seed: int, progress: Callable[[float], None]
  ) -> PyTree[Array]:
    """Parameters, as nested dicts, made from sample clips of whole latents; `progress` hears the share that is done.

    Raises:
      KairosError: no clips, clips of another shape, or the codec is a released one, which is loaded and not fitted.
    """

  def param_shapes(self) -> PyTree[Any]:
    """Shapes and types of the parameters, as nested dicts of jax.ShapeDtypeStruct."""

  def encode(
    self, params: PyTree[Array], frames: UInt8[Array, "B T H W 3"] | Float[Array, "B T H W 3"], state: Any = None
  ) -> tuple[Float[Array, "B N h w C"], PyTree[Array]]:
    """Latents of T frames (uint8, or float in [-1, 1]) and the stream's state after them.

    `state=None` begins a video with T = first_frames + k time_stride frames; else T = k time_stride continue one.
    """

  def decode(
    self, params: PyTree[Array], latents: Float[Array, "B N h w C"], state: Any = None
  ) -> tuple[Float[Array, "B T H W 3"], PyTree[Array]]:
    """Frames in [-1, 1] of N latents and the stream's state after them; `state=None` begins a video."""


@runtime_checkable
class ContextEncoder(Protocol):
  """Words, and pictures where it can see, to what the towers read by cross-attention."""

  @property
  def text_dim(self) -> int:
    """Width of a context token."""

  @property
  def comes_trained(self) -> bool:
    """Whether `init` reads its parameters from files, and does not draw them."""

  def init(self, key: Array) -> PyTree[Array]:
    """Fresh parameters, as nested dicts."""

  def param_shapes(self) -> PyTree:
    """The parameters as `jax.ShapeDtypeStruct`; nothing is read or drawn for them."""

  def tokenize(self, texts: Sequence[str], images: Sequence[np.ndarray] | None = None) -> PyTree[np.ndarray]:
    """On the host: arrays of fixed shapes, one row a sample. Images are refused by an encoder that cannot see."""

  def without_text(self, tokens: PyTree[Array]) -> PyTree[Array]:
    """The tokens of an empty text, in the same shapes: for unconditional samples and text dropout."""

  def encode(self, params: PyTree[Array], tokens: PyTree[Array]) -> Context:
    """On the device: the context."""


@runtime_checkable
class Observation(Protocol):
  """What the robot sees, by camera name, and what it feels, in its own units."""

  images: Mapping[str, UInt8[np.ndarray, "H W 3"]]
  state: Float[np.ndarray, "S"]


@runtime_checkable
class Environment(Protocol):
  """One episode of a simulated or real robot.

  Attributes:
    embodiment: name of the robot, see data_pipelines/embodiments.
    instruction: what to do, in words.
  """

  embodiment: str
  instruction: str

  def reset(self, seed: int | Sequence[int]) -> Any:
    """Begins the episode that the seed names and returns the first `Observation`."""

  def step(self, action: Float[np.ndarray, "A"]) -> tuple[Any, bool, bool]:
    """Moves for one control step and returns (`Observation`, over, success)."""


@runtime_checkable
class Policy(Protocol):
  """Actions for many episodes at once; each episode has a slot of its own and its own clock."""

  def reset(self, slots: Sequence[int]) -> None:
    """Forgets what was seen in these slots: new episodes begin there."""

  def act(
    self, slots: Sequence[int], observations: Sequence[Sequence[Any]], seeds: Sequence[int]
  ) -> Float[np.ndarray, "N M A"]:
    """The next M actions of each slot, in the robot's units.

    Args:
      slots: which episodes to answer for.
      observations: for each slot, what was observed since its last call, oldest first; all of one length.
      seeds: one for each slot; a slot's answer depends on its own seed and history alone.
    """


def num_latents(codec: VideoCodec, frames: Any, *, begins: bool = True) -> Any:
  """Whole latents in so many frames; `begins` if the first frames of the video are among them. Also of arrays."""
  return (frames - codec.first_frames) // codec.time_stride + 1 if begins else frames // codec.time_stride


def num_frames(codec: VideoCodec, latents: Any, *, begins: bool = True) -> Any:
  """Frames in so many latents; `begins` if the first latent of the video is among them. Also of arrays."""
  return codec.first_frames + (latents - 1) * codec.time_stride if begins else latents * codec.time_stride
