"""The engine: pixels and words in, actions and pixels out, everything between compiled once.

Example:
  model = kairos_jax.load("runs/demo")
  stream = model.prefill(frames, "touch the ball that has the color of the bar")
  actions = model.act(stream, state)
  future = model.imagine(stream, frames=16)
  stream = model.extend(stream, frames_seen_meanwhile)
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from kairos_jax import codec as codec_lib
from kairos_jax.bridge import TextBridge
from kairos_jax.codec import FRAMES as FRAMES_PER_LATENT
from kairos_jax.errors import KairosError
from kairos_jax.flow import sampler
from kairos_jax.flow.schedule import ACTION_SHIFT, flow_schedule, video_shift
from kairos_jax.interfaces import Context
from kairos_jax.interop import saved_model
from kairos_jax.interop.saved_model import SavedModel
from kairos_jax.model import Memory, WorldActionModel

Frames = UInt8[np.ndarray, "B T H W 3"] | UInt8[np.ndarray, "T H W 3"]


@flax.struct.dataclass
class Stream:
  """What the model knows of a batch of running episodes: one pytree, constant in size.

  Attributes:
    memory: of the video tower.
    context: the embedded instructions.
    shape: (height, width) of a latent frame.
  """

  memory: Memory
  context: Context
  shape: tuple[int, int] = flax.struct.field(pytree_node=False)

  @property
  def batch(self) -> int:
    return self.context.tokens.shape[0]


class WorldModel:
  """A trained world-action model. Pure: streams and seeds go in, streams and arrays come out.

  All methods take one episode or a batch of them (a leading axis B); each shape compiles once.
  """

  def __init__(self, saved: SavedModel):
    self.saved = saved
    self.model = WorldActionModel(saved.model_config)
    self.bridge = TextBridge(saved.bridge)
    self._begin = jax.jit(self._begin_fn)
    self._extend = jax.jit(lambda *args: self.model.apply({"params": args[0]}, *args[1:], method="extend"))
    self._act = jax.jit(self._act_fn, static_argnames=("steps",))
    self._imagine = jax.jit(self._imagine_fn, static_argnames=("count", "steps", "shape"))
    self._encode, self._encode_next = jax.jit(codec_lib.encode), jax.jit(codec_lib.encode_next)
    self._decode_next = jax.jit(codec_lib.decode_next)

  def prefill(self, frames: Frames, instruction: str | Sequence[str]) -> Stream:
    """Begins a stream with 1 + 4n frames of history (uint8).

    Raises:
      KairosError: another number or shape of frames, or not one instruction for each episode.
    """
    latents = self._encode(self.saved.codec, self._batched(frames))
    texts = [instruction] * len(latents) if isinstance(instruction, str) else list(instruction)
    if len(texts) != len(latents):
      raise KairosError(f"{len(texts)} instructions for {len(latents)} episodes; give one, or one each")
    ids = np.stack([self.bridge.tokenize(text) for text in texts])
    memory, context = self._begin(self.saved.params, latents, ids)
    return Stream(memory, context, (latents.shape[2], latents.shape[3]))

  def extend(self, stream: Stream, frames: Frames) -> Stream:
    """Makes 4n new frames history.

    Raises:
      KairosError: another number or shape of frames.
    """
    return self.extend_latents(stream, self._encode_next(self.saved.codec, self._batched(frames)))

  def extend_latents(self, stream: Stream, latents: Float[Array, "B N h w C"]) -> Stream:
    """`extend` with frames already encoded, such as imagined ones."""
    memory = self._extend(self.saved.params, stream.memory, latents, stream.context)
    return dataclasses.replace(stream, memory=memory)

  def act(
    self,
    stream: Stream,
    state: Float[np.ndarray, "B S"] | Float[np.ndarray, "S"],
    *,
    seed: int = 0,
    steps: int = 3,
  ) -> Float[np.ndarray, "B A action_dim"] | Float[np.ndarray, "A action_dim"]:
    """The next chunk of actions, in the robot's units, from the stream's memory alone: no video is denoised.

    Args:
      state: of the robot now, in its own units.
      steps: denoising steps.

    Raises:
      KairosError: the model has no action tower, or the state has another width.
    """
    action = self.saved.model_config.action
    if action is None:
      raise KairosError("this model has no action tower: it was not trained through the robot stage")
    states = np.atleast_2d(np.asarray(state, np.float32))
    if states.shape != (stream.batch, action.state_dim):
      raise KairosError(f"state is {states.shape}; it must be {(stream.batch, action.state_dim)}: episodes, numbers")
    normal = self.saved.state_normalizer.normalize(states)
    actions = self._act(self.saved.params, stream.memory, stream.context, normal, jax.random.key(seed), steps=steps)
    actions = self.saved.action_normalizer.denormalize(np.asarray(actions))
    return actions if np.ndim(state) == 2 else actions[0]

  def imagine(
    self, stream: Stream, frames: int = 16, *, seed: int = 0, steps: int = 4
  ) -> UInt8[np.ndarray, "B T H W 3"]:
    """The next `frames` frames as the model expects them.

    Args:
      steps: denoising steps; few give what is expected on average, many a sharper sample (docs/results.md).

    Raises:
      KairosError: not a multiple of 4 frames.
    """
    if frames < 1 or frames % FRAMES_PER_LATENT:
      raise KairosError(f"frames is {frames}; it must be a positive multiple of {FRAMES_PER_LATENT}")
    latents = self.imagine_latents(stream, frames // FRAMES_PER_LATENT, seed=seed, steps=steps)
    return self.decode_next(latents)

  def imagine_latents(self, stream: Stream, count: int, *, seed: int = 0, steps: int = 4) -> Float[Array, "B N h w C"]:
    """The next `count` latent frames."""
    return self._imagine(
      self.saved.params,
      stream.memory,
      stream.context,
      jax.random.key(seed),
      count=count,
      steps=steps,
      shape=stream.shape,
    )

  def decode_next(self, latents: Float[Array, "B N h w C"]) -> UInt8[np.ndarray, "B T H W 3"]:
    """The pixels of latents that continue a video."""
    return to_uint8(self._decode_next(self.saved.codec, latents))

  def _begin_fn(self, params, latents, ids):
    context = self.bridge.apply({"params": params["bridge"]}, ids)
    return self.model.apply({"params": params}, None, latents, context, method="extend"), context

  def _act_fn(self, params, memory, context, state, key, *, steps):
    context = self.model.apply({"params": params}, context, state, method="with_state")
    action = self.saved.model_config.action
    assert action is not None  # `act` has checked
    noise = jax.random.normal(key, (state.shape[0], self.saved.action_horizon, action.action_dim))
    schedule = flow_schedule(steps, ACTION_SHIFT)
    return sampler.sample_actions(self.model, params, memory, noise, schedule, context)[0]

  def _imagine_fn(self, params, memory, context, key, *, count, steps, shape):
    video = self.saved.model_config.video
    noise = jax.random.normal(key, (context.tokens.shape[0], count, *shape, video.channels))
    schedule = flow_schedule(steps, video_shift(video.tokens_per_frame(*shape), count))
    return sampler.sample_video(self.model, params, noise, schedule, context, memory=memory)[0]

  def _batched(self, frames: Frames) -> UInt8[np.ndarray, "B T H W 3"]:
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim not in (4, 5):
      raise KairosError(f"frames are {frames.dtype} {frames.shape}; they must be uint8 [T, H, W, 3] or [B, T, H, W, 3]")
    return frames[None] if frames.ndim == 4 else frames


def load(folder: str | Path) -> WorldModel:
  """Loads a trained model from its run's folder.

  Raises:
    KairosError: there is none, or it is damaged.
  """
  return WorldModel(saved_model.load(folder))


def to_uint8(video: Float[Array, "*S"]) -> UInt8[np.ndarray, "*S"]:
  """[-1, 1] -> 0 .. 255, rounded."""
  return np.asarray(jnp.round((video + 1) * 127.5)).astype(np.uint8)
