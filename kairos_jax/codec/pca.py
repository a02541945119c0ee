"""A causal space-time PCA codec: the demo's stand-in for a video VAE, fitted in seconds and behind the same interface.

Video of T = 1 + 4n frames becomes 1 + n latents, each 8 times smaller in height and width. The first latent sees
frame 0 alone (patches of 1x8x8 pixels), latent i sees frames 4i-3..4i (patches of 4x8x8), so a video can be coded as
it arrives: `encode_next` and `decode_next` continue one that `encode` and `decode` began.
"""

import os
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import struct
from jaxtyping import Array, Float, UInt8
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from kairos_jax import files
from kairos_jax.errors import KairosError

PATCH = 8  # pixels, height and width
FRAMES = 4  # frames in every latent but the first
STD_FLOOR = 0.1  # of the leading channel's standard deviation


@struct.dataclass
class PatchBasis:
  """One kind of patch: flat pixels x to channels (x - mean) @ basis / std."""

  mean: Float[Array, "P"]
  basis: Float[Array, "P C"]
  std: Float[Array, "C"]


@struct.dataclass
class PcaCodec:
  """The codec's parameters, a pytree: `first` for frame 0, `later` for every four frames after it."""

  first: PatchBasis
  later: PatchBasis


def fit(clips: Iterable[UInt8[np.ndarray, "T H W 3"]], channels: int = 16) -> PcaCodec:
  """Fits both bases to sample clips, each of T = 1 + 4n frames; the same clips give the same codec.

  Raises:
    KairosError: no clips, or a clip whose shape the codec cannot take.
  """
  first, later = _Moments(PATCH**2 * 3), _Moments(FRAMES * PATCH**2 * 3)
  for clip in clips:
    _check_pixels(clip[None], first=True)
    pixels = _to_float(clip[None], np)
    first.add(_to_patches(pixels, 1))  # every frame: any of them may begin a video
    later.add(_to_patches(pixels[:, 1:], FRAMES))
  if not later.count:
    raise KairosError("codec fit: no clips of at least 5 frames were given")
  return PcaCodec(first=first.principal(channels), later=later.principal(channels))


def encode(
  codec: PcaCodec, video: Float[Array, "B T H W 3"] | UInt8[Array, "B T H W 3"]
) -> Float[Array, "B N H/8 W/8 C"]:
  """Codes a video from its start: T = 1 + 4n frames, uint8 or float in [-1, 1], to N = 1 + n latents.

  Raises:
    KairosError: the shape is not [B, 1 + 4n, 8h, 8w, 3].
  """
  _check_pixels(video, first=True)
  head = _project(codec.first, _to_patches(_to_float(video[:, :1]), 1))
  return jnp.concatenate([head, encode_next(codec, video[:, 1:])], axis=1)


def encode_next(
  codec: PcaCodec, frames: Float[Array, "B T H W 3"] | UInt8[Array, "B T H W 3"]
) -> Float[Array, "B N H/8 W/8 C"]:
  """Codes T = 4n frames that continue a video to N = n latents. Raises KairosError on another shape."""
  _check_pixels(frames, first=False)
  return _project(codec.later, _to_patches(_to_float(frames), FRAMES))


def decode(codec: PcaCodec, latents: Float[Array, "B N h w C"]) -> Float[Array, "B 1+4*(N-1) 8*h 8*w 3"]:
  """The video of latents that begin one, clipped to [-1, 1]. Raises KairosError on another shape."""
  _check_latents(codec, latents)
  head = _to_pixels(_reconstruct(codec.first, latents[:, :1]), 1)
  return jnp.concatenate([head, decode_next(codec, latents[:, 1:])], axis=1)


def decode_next(codec: PcaCodec, latents: Float[Array, "B N h w C"]) -> Float[Array, "B 4*N 8*h 8*w 3"]:
  """The frames of latents that continue a video, clipped to [-1, 1]. Raises KairosError on another shape."""
  _check_latents(codec, latents)
  return _to_pixels(_reconstruct(codec.later, latents), FRAMES)


def psnr(a: Array, b: Array) -> Float[Array, "..."]:
  """Peak signal-to-noise ratio in dB over the last three axes [H, W, 3], at most 100; uint8 or float in [-1, 1]."""
  error = jnp.square(_to_float(a) - _to_float(b)).mean(axis=(-3, -2, -1))
  return 10 * jnp.log10(4 / jnp.maximum(error, 4e-10))


def save(codec: PcaCodec, path: str | os.PathLike) -> None:
  """Writes the parameters as safetensors; the file is whole or not there."""
  tensors = {f"{kind}.{name}": np.asarray(x) for kind in _KINDS for name, x in vars(getattr(codec, kind)).items()}
  with files.replaced(path) as temporary:
    save_file(tensors, temporary)


def load(path: str | os.PathLike) -> PcaCodec:
  """Reads what `save` wrote. Raises KairosError if the file is missing or is not a codec."""
  try:
    tensors = load_file(path)
    kinds = {k: PatchBasis(*(jnp.asarray(tensors[f"{k}.{name}"]) for name in ("mean", "basis", "std"))) for k in _KINDS}
  except (OSError, SafetensorError, KeyError) as error:
    raise KairosError(f"{os.fspath(path)!r} is not a saved PCA codec: {error}") from None
  return PcaCodec(**kinds)


_KINDS = ("first", "later")


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
    return PatchBasis(*(jnp.asarray(x, jnp.float32) for x in (mean, basis, std)))


def _project(kind: PatchBasis, patches: Float[Array, "... P"]) -> Float[Array, "... C"]:
  return (patches - kind.mean) @ kind.basis / kind.std


def _reconstruct(kind: PatchBasis, latents: Float[Array, "... C"]) -> Float[Array, "... P"]:
  return jnp.clip((latents * kind.std) @ kind.basis.T + kind.mean, -1, 1)


def _to_patches(pixels, frames: int):
  return rearrange(pixels, "b (n t) (h p) (w q) c -> b n h w (t p q c)", t=frames, p=PATCH, q=PATCH)


def _to_pixels(patches, frames: int):
  return rearrange(patches, "b n h w (t p q c) -> b (n t) (h p) (w q) c", t=frames, p=PATCH, q=PATCH, c=3)


def _to_float(pixels, xp=jnp):
  return pixels.astype(xp.float32) / 127.5 - 1 if pixels.dtype == xp.uint8 else pixels.astype(xp.float32)


def _check_pixels(video, first: bool) -> None:
  shape = video.shape
  frames = "1 + 4n" if first else "4n"
  if len(shape) != 5 or shape[1] % FRAMES != int(first) or shape[2] % PATCH or shape[3] % PATCH or shape[4] != 3:
    raise KairosError(f"codec: video of shape {tuple(shape)}; it must be [batch, {frames}, 8h, 8w, 3]")


def _check_latents(codec: PcaCodec, latents) -> None:
  channels = codec.first.std.shape[0]
  if latents.ndim != 5 or latents.shape[-1] != channels:
    raise KairosError(f"codec: latents of shape {tuple(latents.shape)}; they must be [batch, n, h, w, {channels}]")
