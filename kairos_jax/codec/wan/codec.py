"""The Wan2.1 causal video autoencoder as a codec: released weights, streams of any length, tiles for large pictures."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, Float, UInt8

from kairos_jax.codec.pixels import check_latents, check_video, to_float
from kairos_jax.codec.wan import chunks, layers, names, network, seen, tiles
from kairos_jax.codec.wan.layers import History, Params
from kairos_jax.errors import KairosError

Size = tuple[int, int]
# What a stream keeps: "encoder", of that network's layers, and "seen", see `seen`, once it has encoded; "decoder", of
# that network's layers, while it decodes.
State = dict[str, Any]

# The mean and the standard deviation of each of the released model's latent channels. Source: wan/modules/vae.py.
MEAN = (
  *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
  *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
STD = (
  *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
  *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)


@dataclasses.dataclass(frozen=True)
class WanCodec:
  """A convolutional autoencoder, causal in time; see `interfaces.VideoCodec`. The defaults are the released model.

  Attributes:
    channels: of a latent.
    base: width of the layers at full resolution.
    multipliers: of that width, a stage each; between two stages height and width are halved.
    blocks: residual blocks of a stage; the decoder has one more.
    time_halvings: so many of the deepest halvings also halve the frames.
  """

  channels: int = 16
  base: int = 96
  multipliers: tuple[int, ...] = (1, 2, 4, 4)
  blocks: int = 2
  time_halvings: int = 2
  first_frames: ClassVar[int] = 1

  def __post_init__(self):
    """KairosError for sizes that do not go together."""
    if len(self.multipliers) < 2:
      raise KairosError(f"codec.multipliers is {self.multipliers}; allowed: two or more, one for each resolution")
    if self.time_halvings >= len(self.multipliers):
      allowed = f"1 to {len(self.multipliers) - 1}, as many as there are halvings of the space"
      raise KairosError(f"codec.time_halvings is {self.time_halvings}; allowed: {allowed}")
    if self.base % 2 and any(m % 2 for m in self.multipliers[1:]):
      raise KairosError(f"codec.base is {self.base}; allowed: even numbers, for an upsampling halves the width")

  @property
  def time_stride(self) -> int:
    """Frames in every latent but the first."""
    return 2**self.time_halvings

  @property
  def reach(self) -> int:
    """So many latents before a latent have a part in its frames."""
    convs = [2 * (self.blocks + 1)] * len(self.multipliers)  # of each stage of the decoder, two frames back each
    convs[0] += 1 + 4  # the first one, and those of the middle
    convs[-1] += 1
    frames = 0.0
    for stage, count in enumerate(convs):
      level = min(stage, self.time_halvings)
      frames += 2 * (count + (stage < self.time_halvings)) / 2**level  # the change of the rate looks back too
    return math.ceil(frames) + 1  # for frames come in pairs

  @property
  def space_stride(self) -> int:
    """Pixels along a latent pixel's height and width."""
    return 2 ** (len(self.multipliers) - 1)

  def fit(
    self,
    clips: Iterable[UInt8[np.ndarray, "_ H W 3"]],
    seed: int = 0,
    progress: Callable[[float], None] = lambda done: None,
  ) -> Params:
    """KairosError: this codec is loaded, not fitted."""
    raise KairosError("a codec of kind 'wan' is not fitted: config key codec.weights must name its weight file")

  def param_shapes(self) -> Params:
    """Shapes and types of the parameters."""
    shapes = network.param_shapes(**dataclasses.asdict(self), dtype=jnp.float32)
    scale = jax.ShapeDtypeStruct((self.channels,), jnp.float32)
    return {**shapes, "latents": {"mean": scale, "std": scale}}

  def from_reference(
    self, tensors: Mapping[str, np.ndarray], mean: Iterable[float] = MEAN, std: Iterable[float] = STD
  ) -> Params:
    """Parameters from the tensors of a released file, by the names that it has for them.

    Args:
      mean, std: of each latent channel, which the file does not hold.

    Raises:
      KairosError: a tensor is missing, unknown or of another shape, or there are more channels than means.
    """
    return unflatten_dict(
      {path: np.ascontiguousarray(x, dtype) for path, x, dtype in self.turned_in(tensors, mean, std)}
    )

  def turned_in(
    self, tensors: Mapping[str, np.ndarray], mean: Iterable[float] = MEAN, std: Iterable[float] = STD
  ) -> Iterator[tuple[tuple[str, ...], np.ndarray, np.dtype]]:
    """As `from_reference`, one parameter after the other, each with the type that it shall have."""
    latents = {"mean": np.asarray(tuple(mean), np.float32), "std": np.asarray(tuple(std), np.float32)}
    if latents["mean"].shape != (self.channels,) or latents["std"].shape != (self.channels,):
      raise KairosError(
        f"codec.channels is {self.channels}; allowed: {len(latents['mean'])}, whose statistics are known"
      )
    shapes = self.param_shapes()
    del shapes["latents"]
    yield from names.turned_in(tensors, shapes)
    for name, value in latents.items():
      yield ("latents", name), value, value.dtype

  def to_reference(self, params: Params) -> dict[str, np.ndarray]:
    """The tensors of `from_reference`, under the names of the released file."""
    return names.to_reference({name: part for name, part in params.items() if name != "latents"})

  def turned_out(self, flat: Mapping[tuple[str, ...], np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """As `to_reference`, one tensor after the other, from parameters by their paths."""
    return names.turned_out(flat)

  @functools.partial(jax.jit, static_argnames="self")
  def encode(
    self, params: Params, frames: UInt8[Array, "B T H W 3"] | Float[Array, "B T H W 3"], state: State | None = None
  ) -> tuple[Float[Array, "B N h w C"], State]:
    """The means of the latents, of unit scale; T = 1 + 4n frames begin a video, 4n continue one.

    The state is as large for a long video as for a short one. Frames that follow decoded latents continue those that
    were encoded before: what was imagined is forgotten.

    Raises:
      KairosError: another shape.
    """
    check_video(self, frames, begins=state is None)
    if state is not None and "encoder" not in state:
      raise KairosError("codec: this stream was decoded alone; frames continue one that has encoded others")
    before = state or {}
    latents, kept = chunks.through(self._encode_chunk, params, frames, self.time_stride, before.get("encoder"))
    return latents, {"encoder": kept, "seen": seen.add(before.get("seen"), latents, self.reach)}

  @functools.partial(jax.jit, static_argnames=("self", "clip"))
  def decode(
    self, params: Params, latents: Float[Array, "B N h w C"], state: State | None = None, *, clip: bool = True
  ) -> tuple[Float[Array, "B T H W 3"], State]:
    """The frames of latents that begin a video (`state` None) or continue one.

    After `encode`, the decoder first follows through the last latents that were encoded.

    Args:
      clip: to [-1, 1]; the network may overshoot.

    Raises:
      KairosError: another shape.
    """
    check_latents(self, latents)
    state = state or {}
    kept = state.get("decoder")
    if "seen" in state and kept is None:
      kept = seen.catch_up(functools.partial(chunks.one, self._decode_chunk, params), state["seen"])
    video, kept = chunks.through(self._decode_chunk, params, latents, 1, kept)
    return jnp.clip(video, -1, 1) if clip else video, {**state, "decoder": kept}

  @functools.partial(jax.jit, static_argnames=("self", "tile", "stride"))
  def encode_tiled(
    self, params: Params, frames: Float[Array, "B T H W 3"], tile: Size, stride: Size, state: Any = None
  ) -> tuple[Float[Array, "B N h w C"], Any]:
    """As `encode`, in overlapping tiles whose latents are blended: less memory, and not quite the same latents.

    Args:
      tile, stride: height and width of a tile, and from one to the next, in latent pixels.

    Raises:
      KairosError: another shape, or tiles that leave gaps.
    """
    check_video(self, frames, begins=state is None)
    run = functools.partial(self.encode, params)
    return tiles.blended(run, frames, tile, stride, state, read=self.space_stride, write=1)

  @functools.partial(jax.jit, static_argnames=("self", "tile", "stride"))
  def decode_tiled(
    self, params: Params, latents: Float[Array, "B N h w C"], tile: Size, stride: Size, state: Any = None
  ) -> tuple[Float[Array, "B T H W 3"], Any]:
    """As `decode`, in overlapping tiles whose frames are blended; see `encode_tiled`."""
    check_latents(self, latents)
    run = functools.partial(self.decode, params, clip=False)
    video, state = tiles.blended(run, latents, tile, stride, state, read=1, write=self.space_stride)
    return jnp.clip(video, -1, 1), state

  def _encode_chunk(self, params: Params, frames: Array, history: History) -> Array:
    x = to_float(frames).astype(params["to_moments"]["kernel"].dtype)
    moments = network.encode_chunk(params["encoder"], x, history)
    mean = layers.dense(params["to_moments"], moments)[..., : self.channels].astype(jnp.float32)
    return (mean - params["latents"]["mean"]) / params["latents"]["std"]

  def _decode_chunk(self, params: Params, latents: Array, history: History) -> Array:
    x = latents.astype(jnp.float32) * params["latents"]["std"] + params["latents"]["mean"]
    x = layers.dense(params["from_latents"], x.astype(params["from_latents"]["kernel"].dtype))
    return network.decode_chunk(params["decoder"], x, history).astype(jnp.float32)
