"""The layers of the Wan2.1 video autoencoder, as functions of parameters, a chunk of frames, and the frames before it.

Frames are [B T H W C]. A video begins with a chunk of one frame. A layer that looks back in time asks the chunk's
`History` for the frames that it kept of the chunk before, and leaves it those that it will need for the next.
Source: wan/modules/vae.py of Wan2.1, whose feature cache this is.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from kairos_jax.codec.wan import conv

Params = dict[str, Any]
Kept = tuple[Array, ...]  # of every layer that looks back, in the order in which they run: [B K H W C]
Frames = Float[Array, "B T H W C"]

TAPS = 3  # frames, rows and columns that a convolution reads


class History:
  """What the layers of one network kept of the frames before a chunk, and what they keep for the next."""

  def __init__(self, kept: Sequence[Array] | None):
    self.begins = kept is None
    self._kept = iter(kept or ())
    self._next: list[Array] = []

  def before(self, x: Frames, frames: int) -> Float[Array, "B T+{frames} H W C"]:
    """The chunk behind so many earlier frames; where the video begins, zeros are in their place."""
    earlier = jnp.zeros((x.shape[0], frames, *x.shape[2:]), x.dtype) if self.begins else next(self._kept)
    whole = jnp.concatenate([earlier, x], axis=1)
    self._next.append(whole[:, -frames:])
    return whole

  @property
  def kept(self) -> Kept:
    return tuple(self._next)


class Neighbor(History):
  """Of a device's share of a video: before it lie the last frames of the device before, sent for each layer."""

  def __init__(self, kept: Sequence[Array], axis: str, devices: int, latents: int, real: Array):
    """`kept` before the first device's share; `latents` of each share, and how many of this one are `real`."""
    super().__init__(kept)
    self._axis, self._latents, self._real = axis, latents, real
    self._pairs = [(i, i + 1) for i in range(devices - 1)]

  def before(self, x: Frames, frames: int) -> Float[Array, "B T+{frames} H W C"]:
    """As `History.before`; a share is at least so many frames long."""
    came = jax.lax.ppermute(x[:, -frames:], self._axis, self._pairs)
    earlier = jnp.where(jax.lax.axis_index(self._axis) == 0, next(self._kept), came)
    whole = jnp.concatenate([earlier, x], axis=1)
    end = self._real * (x.shape[1] // self._latents)
    self._next.append(jax.lax.dynamic_slice_in_dim(whole, end, frames, axis=1))
    return whole


def norm(params: Params, x: Frames) -> Frames:
  """The root-mean-square norm over channels."""
  x32 = x.astype(jnp.float32)
  length = jnp.sqrt(jnp.sum(jnp.square(x32), axis=-1, keepdims=True))
  unit = x32 / jnp.maximum(length, 1e-12) * x.shape[-1] ** 0.5
  return (unit * params["scale"]).astype(x.dtype)


def dense(params: Params, x: Float[Array, "... C"]) -> Float[Array, "... D"]:
  """A convolution that reads one pixel of one frame."""
  return x @ params["kernel"] + params["bias"]


def causal_conv(params: Params, x: Frames, history: History) -> Float[Array, "B T H W D"]:
  """3x3x3, over this frame and the two before it."""
  whole, kernel = history.before(x, TAPS - 1), params["kernel"]
  if history.begins:  # the frames before are zeros
    whole, kernel = x, kernel[-1:]
  return conv.space_time(whole, kernel) + params["bias"]


def residual_block(params: Params, x: Frames, history: History) -> Float[Array, "B T H W D"]:
  """Two convolutions beside a shortcut."""
  y = causal_conv(params["conv1"], jax.nn.silu(norm(params["norm1"], x)), history)
  y = causal_conv(params["conv2"], jax.nn.silu(norm(params["norm2"], y)), history)
  return y + (dense(params["shortcut"], x) if "shortcut" in params else x)


def attention_block(params: Params, x: Frames) -> Frames:
  """One head, over the pixels of a frame."""
  q, k, v = jnp.split(dense(params["to_qkv"], norm(params["norm"], x)), 3, axis=-1)
  q, k, v = (rearrange(y, "b t h w c -> (b t) (h w) 1 c") for y in (q, k, v))
  y = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
  return x + dense(params["proj"], y)


def downsample(params: Params, x: Frames, history: History) -> Float[Array, "B t H//2 W//2 C"]:
  """Half the height and width and, with a `time_conv`, half the frames; but the first frame stays as it is."""
  x = conv.space_halved(x, params["conv"]["kernel"]) + params["conv"]["bias"]
  if "time_conv" not in params:
    return x
  whole = history.before(x, 1)
  return x if history.begins else conv.time(whole, stride=2, **params["time_conv"])


def upsample(params: Params, x: Frames, history: History) -> Float[Array, "B t 2*H 2*W D"]:
  """Twice the height and width and, with a `time_conv`, twice the frames; but the first frame stays as it is.

  The frame after the first has zeros before it: the first one is not kept.
  """
  if "time_conv" in params:
    if history.begins:
      history.before(jnp.zeros_like(x), TAPS - 1)
    else:
      y = conv.time(history.before(x, TAPS - 1), stride=1, **params["time_conv"])
      x = rearrange(y, "b t h w (p c) -> b (t p) h w c", p=2)
  return conv.space_doubled(x, params["conv"]["kernel"]) + params["conv"]["bias"]


def head(params: Params, x: Frames, history: History) -> Float[Array, "B T H W D"]:
  """The last convolution."""
  return causal_conv(params["conv"], jax.nn.silu(norm(params["norm"], x)), history)
