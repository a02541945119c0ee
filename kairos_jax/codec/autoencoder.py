"""A small causal video autoencoder, trained in a minute: the demo's stand-in for a video VAE, behind the same protocol.

Video of T = 1 + 4n frames becomes 1 + n latents, each 8 times smaller in height and width. The encoder sees the frames
of one latent alone (the first frame stands for four), so latents are independent of each other. The decoder carries the
last picture as its streaming state: most of a picture stays as it was seen, so it decides, pixel by pixel, what of it
stays. Encoding real frames sets the state to the last true picture; decoding latents, to the last decoded one.

Both are trained on chains of latents mixed with noise and with another clip's latents, because imagined latents are
uncertain. Noise also bounds what a channel can tell, which is why a few channels learn to say what matters: where the
things are that move. A third network, which is not kept, has to tell each latent from the two before it: that makes
the encoder say it in a way that goes on smoothly, and flow matching finds it easier to learn what comes.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange, repeat
from jaxtyping import Array, Float, UInt8

from kairos_jax.codec.pixels import FRAMES, PATCH, check_latents, check_video, to_float
from kairos_jax.errors import KairosError

Params = dict[str, Any]
Picture = Float[Array, "B H W 3"]

CELL = 4  # pixels along the side of what the networks see as one place
CHAIN = 4  # latents that are decoded one after the other in training
NOISE = 0.4  # largest standard deviation of the noise on training latents, in units of their own
FOREIGN = 0.5  # largest share of another clip's latents in training latents
SMOOTH, SMOOTH_NOISE, SMOOTH_WIDTH = 0.5, 0.1, 96  # weight of the next latent's error, noise on all three, width
BATCH, STEPS_AT_ONCE = 8, 20
PEAK_LR, WARMUP_STEPS, CLIP_NORM = 3e-3, 20, 0.3


@dataclasses.dataclass(frozen=True)
class Autoencoder:
  """Convolutions around a narrow waist, and a decoder that remembers the last picture; see `interfaces.VideoCodec`.

  Attributes:
    channels: of a latent.
    width: of the decoder where it sees places of 4 x 4 pixels; twice that at the latents' own resolution. The encoder,
      which runs in every training step of the towers, is half as wide.
    steps: of training.
  """

  channels: int = 6
  width: int = 64
  steps: int = 1100
  first_frames: ClassVar[int] = 1
  time_stride: ClassVar[int] = FRAMES
  space_stride: ClassVar[int] = PATCH

  def __post_init__(self):
    for name, value, least in (("channels", self.channels, 1), ("width", self.width, 2), ("steps", self.steps, 1)):
      if value < least:
        raise KairosError(f"codec.{name} is {value}; allowed: {least} or more")

  def fit(
    self,
    clips: Iterable[UInt8[np.ndarray, "_ H W 3"]],
    seed: int = 0,
    progress: Callable[[float], None] = lambda done: None,
  ) -> Params:
    """Trains both networks; the same clips and seed give the same parameters on the same machine.

    Args:
      clips: of one size, each of T = 1 + 4n frames.
      seed: of the weights, the batches and the noise.
      progress: hears the share of the steps that is done.

    Raises:
      KairosError: no clips, none that is long enough for a chain, or a shape that the codec cannot take.
    """
    clips = list(clips)
    for clip in clips:
      check_video(self, clip[None], begins=True)
    pieces = _pieces(clips)
    rng = np.random.default_rng(seed)
    key, predictor_key = jax.random.split(jax.random.key(seed % 2**32))
    networks = {**self._init(key), "predictor": self._init_predictor(predictor_key)}
    state = (networks, _optimizer(self.steps).init(networks), jnp.int32(0))
    advance = jax.jit(functools.partial(_advance, self.steps))
    for done in range(0, self.steps, STEPS_AT_ONCE):
      progress(done / self.steps)
      rows = rng.integers(len(pieces), size=(STEPS_AT_ONCE, BATCH))
      videos = np.stack([np.stack([pieces[row] for row in batch]) for batch in rows])
      state = advance(state, videos, jax.random.key(rng.integers(2**32)))
    kept = {name: state[0][name] for name in ("encoder", "decoder")}
    return {**kept, **_moments(kept["encoder"], pieces)}

  def param_shapes(self) -> Params:
    """Shapes and types of the parameters."""
    moments = jax.ShapeDtypeStruct((self.channels,), jnp.float32)
    return {**jax.eval_shape(lambda: self._init(jax.random.key(0))), "mean": moments, "std": moments}

  def encode(
    self, params: Params, frames: Float[Array, "B T H W 3"] | UInt8[Array, "B T H W 3"], state: Picture | None = None
  ) -> tuple[Float[Array, "B N H/8 W/8 C"], Picture]:
    """Latents of mean 0 and variance 1 over the clips of `fit`, and the last picture.

    Raises:
      KairosError: another shape.
    """
    check_video(self, frames, begins=state is None)
    pixels = to_float(frames)
    latents = _encode(params["encoder"], pixels, begins=state is None)
    return (latents - params["mean"]) / params["std"], pixels[:, -1]

  def decode(
    self, params: Params, latents: Float[Array, "B N h w C"], state: Picture | None = None
  ) -> tuple[Float[Array, "B T 8*h 8*w 3"], Picture]:
    """The frames of latents that begin a video (`state` None: the first is decoded beside gray) or continue one.

    Raises:
      KairosError: another shape.
    """
    check_latents(self, latents)
    latents = latents * params["std"] + params["mean"]
    if state is not None:
      return _roll(params["decoder"], latents, state)
    picture = _first_picture(params["decoder"], latents[:, 0])
    video, state = _roll(params["decoder"], latents[:, 1:], picture)
    return jnp.concatenate([picture[:, None], video], axis=1), state

  def _init(self, key: Array) -> Params:
    layer = _layers(key)
    pixels = CELL**2
    narrow, wide = self.width // 2, self.width
    encoder = {
      "cells": layer(FRAMES * 3 * pixels, narrow),
      "conv0": layer(9 * narrow, narrow),
      "conv1": layer(9 * narrow, narrow),
      "patches": layer(4 * narrow, wide),
      "conv2": layer(9 * wide, wide),
      "out": layer(wide, self.channels),
    }
    narrow, wide = self.width, 2 * self.width
    decoder = {
      "patches": layer(self.channels, wide),
      "conv0": layer(9 * wide, wide),
      "cells": layer(wide, 4 * narrow),
      "picture": layer(3 * pixels, narrow),
      "conv1": layer(9 * narrow, narrow),
      "conv2": layer(9 * narrow, narrow),
      "out": layer(narrow, FRAMES * 4 * pixels, 0.1),  # for each frame and pixel three colors, and how much stays
    }
    return {"encoder": encoder, "decoder": decoder}

  def _init_predictor(self, key: Array) -> Params:
    layer = _layers(key)
    return {
      "pairs": layer(9 * 2 * self.channels, SMOOTH_WIDTH),
      "conv0": layer(9 * SMOOTH_WIDTH, SMOOTH_WIDTH),
      "conv1": layer(9 * SMOOTH_WIDTH, SMOOTH_WIDTH),
      "out": layer(SMOOTH_WIDTH, self.channels, 0.3),
    }


def _layers(key: Array) -> Callable[..., dict[str, Array]]:
  """Makes one layer after the other, each of its own key."""
  keys = iter(jax.random.split(key, 16))

  def layer(rows: int, columns: int, scale: float = 1.0) -> dict[str, Array]:
    kernel = scale * jnp.sqrt(2 / rows) * jax.random.normal(next(keys), (rows, columns))
    return {"kernel": kernel, "bias": jnp.zeros(columns)}

  return layer


def _encode(encoder: Params, pixels: Float[Array, "B T H W 3"], begins: bool) -> Float[Array, "B N H/8 W/8 C"]:
  if begins:
    pixels = jnp.concatenate([repeat(pixels[:, :1], "b 1 h w c -> b t h w c", t=FRAMES), pixels[:, 1:]], axis=1)
  batch = pixels.shape[0]
  x = _to_cells(rearrange(pixels, "b (n t) h w c -> (b n) h w (t c)", t=FRAMES), CELL)
  x = jax.nn.silu(_dense(x, encoder["cells"]))
  for name in ("conv0", "conv1"):
    x = _residual(x, encoder[name])
  x = jax.nn.silu(_dense(_to_cells(x, PATCH // CELL), encoder["patches"]))
  x = _dense(_residual(x, encoder["conv2"]), encoder["out"])
  return rearrange(x, "(b n) h w c -> b n h w c", b=batch)


def _roll(
  decoder: Params, latents: Float[Array, "B N h w C"], picture: Picture
) -> tuple[Float[Array, "B T H W 3"], Picture]:
  """Decodes latents one after the other, each beside the last picture of the one before."""

  def step(picture, latent):
    frames = _decode_one(decoder, latent, picture)
    return frames[:, -1], frames

  picture, frames = jax.lax.scan(step, picture, jnp.moveaxis(latents, 1, 0))
  return rearrange(frames, "n b t h w c -> b (n t) h w c"), picture


def _decode_one(decoder: Params, latent: Float[Array, "B h w C"], picture: Picture) -> Float[Array, "B 4 H W 3"]:
  x = _residual(jax.nn.silu(_dense(latent, decoder["patches"])), decoder["conv0"])
  x = _to_pixels(_dense(x, decoder["cells"]), PATCH // CELL)
  x = jax.nn.silu(x + _dense(_to_cells(picture, CELL), decoder["picture"]))
  for name in ("conv1", "conv2"):
    x = _residual(x, decoder[name])
  y = _to_pixels(_dense(x, decoder["out"]), CELL)
  y = rearrange(y, "b h w (t c) -> b t h w c", t=FRAMES)
  stays = jax.nn.sigmoid(y[..., 3:])
  return jnp.clip(stays * picture[:, None] + (1 - stays) * y[..., :3], -1, 1)


def _first_picture(decoder: Params, latent: Float[Array, "B h w C"]) -> Picture:
  batch, height, width, _ = latent.shape
  return _decode_one(decoder, latent, jnp.zeros((batch, PATCH * height, PATCH * width, 3)))[:, -1]


def _dense(x: Float[Array, "... I"], layer: Params) -> Float[Array, "... O"]:
  return x @ layer["kernel"] + layer["bias"]


def _conv(x: Float[Array, "B H W I"], layer: Params) -> Float[Array, "B H W O"]:
  """A 3x3 convolution as one matrix product, which is what a CPU is good at."""
  height, width = x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  around = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
  return _dense(jnp.concatenate(around, axis=-1), layer)


def _residual(x: Float[Array, "B H W D"], layer: Params) -> Float[Array, "B H W D"]:
  return x + jax.nn.silu(_conv(x, layer))


def _to_cells(x: Float[Array, "B H W C"], side: int) -> Float[Array, "B H//{side} W//{side} {side*side}*C"]:
  return rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=side, q=side)


def _to_pixels(x: Float[Array, "B h w C"], side: int) -> Float[Array, "B {side}*h {side}*w C//{side*side}"]:
  return rearrange(x, "b h w (p q c) -> b (h p) (w q) c", p=side, q=side)


def _pieces(clips: list[UInt8[np.ndarray, "_ H W 3"]]) -> list[UInt8[np.ndarray, "T H W 3"]]:
  """Stretches of a chain's length, one latent apart: views, for together they hold each frame several times."""
  if not clips:
    raise KairosError("codec fit: no clips were given")
  length = 1 + FRAMES * CHAIN
  pieces = [clip[start : start + length] for clip in clips for start in range(0, len(clip) - length + 1, FRAMES)]
  if not pieces:
    raise KairosError(f"codec fit: no clip has the {length} frames that kind 'autoencoder' is trained on")
  return pieces


def _moments(encoder: Params, pieces: list[UInt8[np.ndarray, "T H W 3"]]) -> dict[str, Array]:
  """Mean and deviation of each channel, over every piece or 512 of them, spread evenly."""
  some = pieces[:: max(1, len(pieces) // 512)]
  encode = jax.jit(lambda video: _encode(encoder, to_float(video), begins=True))
  latents = np.concatenate([encode(np.stack(some[i : i + 32])) for i in range(0, len(some), 32)])
  axes = tuple(range(latents.ndim - 1))
  return {"mean": jnp.asarray(latents.mean(axes)), "std": jnp.asarray(np.maximum(latents.std(axes), 1e-6))}


def _optimizer(steps: int) -> optax.GradientTransformation:
  cosine = optax.cosine_decay_schedule(PEAK_LR, steps, alpha=0.02)
  warmup = optax.linear_schedule(0.0, PEAK_LR, WARMUP_STEPS)
  rate = optax.join_schedules([warmup, cosine], [WARMUP_STEPS])
  return optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.adam(rate, b2=0.99))


def _loss(networks: Params, video: UInt8[Array, "B T H W 3"], key: Array) -> Float[Array, ""]:
  """Mean over clips of the logarithm of the squared error, so that clips that can be told well count as much."""
  pixels = to_float(video)
  latents = _encode(networks["encoder"], pixels, begins=True)
  std = jnp.sqrt(latents.var(axis=(0, 1, 2, 3)) + 1e-4)
  foreign_key, level_key, noise_key, start_key, smooth_key = jax.random.split(key, 5)
  each = (len(video), 1, 1, 1, 1)
  # Errors of imagined latents look like scenes: another clip's stand in for them.
  share = FOREIGN * jax.random.uniform(foreign_key, each)
  told = latents + share * (jnp.roll(latents, 1, axis=0) - latents)
  told = told + NOISE * jax.random.uniform(level_key, each) * std * jax.random.normal(noise_key, latents.shape)
  first = _first_picture(networks["decoder"], told[:, 0])
  # Half of the chains go on from the true first picture, half from the decoded one.
  start = jnp.where(jax.random.uniform(start_key, each[:4]) < 0.5, pixels[:, 0], first)
  rest, _ = _roll(networks["decoder"], told[:, 1:], start)
  error = jnp.square(rest - pixels[:, 1:]).mean(axis=(1, 2, 3, 4))
  first_error = jnp.square(first - pixels[:, 0]).mean(axis=(1, 2, 3))
  # Keeps the scale of the latents where rounding and the noise's unit are at home.
  scale = 1e-3 * (jnp.square(latents.mean(axis=(0, 1, 2, 3))) + jnp.square(jnp.log(std))).mean()
  surprise = _surprise(networks["predictor"], (latents - latents.mean(axis=(0, 1, 2, 3))) / std, smooth_key)
  return (jnp.log(error + 1e-4) + 0.25 * jnp.log(first_error + 1e-4)).mean() + SMOOTH * surprise + scale


def _surprise(predictor: Params, latents: Float[Array, "B N h w C"], key: Array) -> Float[Array, ""]:
  """Mean squared error of latents told from the two before them; noise keeps the encoder from shrinking what moves."""
  latents = latents + SMOOTH_NOISE * jax.random.normal(key, latents.shape)
  pairs = jnp.concatenate([latents[:, 1:-1], latents[:, :-2]], axis=-1)
  x = jax.nn.silu(_conv(rearrange(pairs, "b n h w c -> (b n) h w c"), predictor["pairs"]))
  x = _dense(_residual(_residual(x, predictor["conv0"]), predictor["conv1"]), predictor["out"])
  told = latents[:, 1:-1] + rearrange(x, "(b n) h w c -> b n h w c", b=len(latents))
  return jnp.square(told - latents[:, 2:]).mean()


def _advance(steps: int, state: Any, videos: UInt8[Array, "S B T H W 3"], key: Array) -> Any:
  """A training step for each batch of videos."""

  def step(state, video):
    networks, moments, number = state
    gradients = jax.grad(_loss)(networks, video, jax.random.fold_in(key, number))
    updates, moments = _optimizer(steps).update(gradients, moments, networks)
    return (optax.apply_updates(networks, updates), moments, number + 1), None

  return jax.lax.scan(step, state, videos)[0]
