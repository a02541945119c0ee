"""A causal space-time PCA codec: fitted in a second, what a learned codec has to beat, and quick in tests.

Video of T = 1 + 4n frames becomes 1 + n latents, each 8 times smaller in height and width. The first latent sees
frame 0 alone (patches of 1x8x8 pixels), latent i sees frames 4i-3..4i (patches of 4x8x8), so a video can be coded as
it arrives. Latents are independent of each other, so the streaming state is empty.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, UInt8

from kairos_jax.codec.pixels import FRAMES, PATCH, check_latents, check_video, to_float
from kairos_jax.errors import KairosError

STD_FLOOR = 0.5  # of the leading channel's standard deviation

# One kind of patch, flat pixels x to channels (x - mean) @ basis / std: {"mean": [P], "basis": [P C], "std": [C]}.
PatchBasis = dict[str, Array]
# {"first": of frame 0, "later": of every four frames after it}.
Params = dict[str, PatchBasis]


@dataclasses.dataclass(frozen=True)
class PcaCodec:
  """The leading principal components of patches; see `interfaces.VideoCodec`.

  Attributes:
    channels: components that are kept.
  """

  channels: int = 24
  first_frames: ClassVar[int] = 1
  time_stride: ClassVar[int] = FRAMES
  space_stride: ClassVar[int] = PATCH

  def __post_init__(self):
    if not 1 <= self.channels <= PATCH**2 * 3:
      raise KairosError(f"codec.channels is {self.channels}; allowed: 1 to {PATCH**2 * 3}")

  def fit(
    self,
    clips: Iterable[UInt8[np.ndarray, "_ H W 3"]],
    seed: int = 0,
    progress: Callable[[float], None] = lambda done: None,
  ) -> Params:
    """Fits both bases to sample clips, each of T = 1 + 4n frames; the same clips give the same parameters.

    Args:
      clips: of one size.
      seed, progress: unused, because nothing is drawn and little time is taken.

    Raises:
      KairosError: no clips, or a clip whose shape the codec cannot take.
    """
    del seed, progress
    first, later = _Moments(PATCH**2 * 3), _Moments(FRAMES * PATCH**2 * 3)
    for clip in clips:
      check_video(self, clip[None], begins=True)
      pixels = to_float(clip[None], np)
      first.add(_to_patches(pixels, 1))  # every frame: any of them may begin a video
      later.add(_to_patches(pixels[:, 1:], FRAMES))
    if not later.count:
      raise KairosError("codec fit: no clips of at least 5 frames were given")
    return {"first": first.principal(self.channels), "later": later.principal(self.channels)}

  def param_shapes(self) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Shapes and types of the parameters."""

    def basis(size: int) -> dict[str, jax.ShapeDtypeStruct]:
      shapes = {"mean": (size,), "basis": (size, self.channels), "std": (self.channels,)}
      return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    return {"first": basis(PATCH**2 * 3), "later": basis(FRAMES * PATCH**2 * 3)}

  def encode(
    self, params: Params, frames: Float[Array, "B T H W 3"] | UInt8[Array, "B T H W 3"], state: Any = None
  ) -> tuple[Float[Array, "B N H/8 W/8 C"], tuple[()]]:
    """T = 1 + 4n frames that begin a video (`state` None), or 4n that continue one, to N latents.

    Raises:
      KairosError: another shape.
    """
    check_video(self, frames, begins=state is None)
    pixels = to_float(frames)
    if state is not None:
      return _project(params["later"], pixels, FRAMES), ()
    head = _project(params["first"], pixels[:, :1], 1)
    return jnp.concatenate([head, _project(params["later"], pixels[:, 1:], FRAMES)], axis=1), ()

  def decode(
    self, params: Params, latents: Float[Array, "B N h w C"], state: Any = None
  ) -> tuple[Float[Array, "B T 8*h 8*w 3"], tuple[()]]:
    """The frames of latents that begin a video (`state` None) or continue one, clipped to [-1, 1].

    Raises:
      KairosError: another shape.
    """
    check_latents(self, latents)
    if state is not None:
      return jnp.clip(_reconstruct(params["later"], latents, FRAMES), -1, 1), ()
    head, rest = _reconstruct(params["first"], latents[:, :1], 1), _reconstruct(params["later"], latents[:, 1:], FRAMES)
    return jnp.clip(jnp.concatenate([head, rest], axis=1), -1, 1), ()


class _Moments:
  """Running first and second moments of patches, in float64."""

  def __init__(self, size: int):
    self.count = 0
    self._sum = np.zeros(size)
    self._outer = np.zeros((size, size))

  def add(self, patches: Float[np.ndarray, "... P"]) -> None:
    flat = patches.reshape(-1, patches.shape[-1])
    self.count += len(flat)
    self._sum += flat.sum(axis=0, dtype=np.float64)
    self._outer += flat.T @ flat

  def principal(self, channels: int) -> PatchBasis:
    """The leading directions.

    Each channel is divided by its own standard deviation, so that the noise of flow matching is as strong in one as
    in the other; but by no less than STD_FLOOR of the leading one, or the loss would ask for detail too faint to see.
    """
    mean = self._sum / self.count
    variance, directions = np.linalg.eigh(self._outer / self.count - np.outer(mean, mean))
    variance, basis = variance[::-1][:channels], directions[:, ::-1][:, :channels]
    basis = basis * np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(channels)])  # eigh leaves the sign open
    std = np.sqrt(np.maximum(variance, 0))
    std = np.maximum(std, max(STD_FLOOR * std[0], 1e-6))
    return {name: jnp.asarray(x, jnp.float32) for name, x in (("mean", mean), ("basis", basis), ("std", std))}


def _project(basis: PatchBasis, pixels: Float[Array, "B T H W 3"], frames: int) -> Float[Array, "B N H/8 W/8 C"]:
  """Pixels in [-1, 1] to the latents of patches of so many frames."""
  return (_to_patches(pixels, frames) - basis["mean"]) @ basis["basis"] / basis["std"]


def _reconstruct(basis: PatchBasis, latents: Float[Array, "B N h w C"], frames: int) -> Float[Array, "B T 8*h 8*w 3"]:
  """The pixels of latents, not clipped."""
  return _to_pixels((latents * basis["std"]) @ basis["basis"].T + basis["mean"], frames)


def _to_patches(pixels, frames: int):
  return rearrange(pixels, "b (n t) (h p) (w q) c -> b n h w (t p q c)", t=frames, p=PATCH, q=PATCH)


def _to_pixels(patches, frames: int):
  return rearrange(patches, "b n h w (t p q c) -> b (n t) (h p) (w q) c", t=frames, p=PATCH, q=PATCH, c=3)
