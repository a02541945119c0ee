"""The engine: pixels and words in, actions and pixels out, everything between compiled once.

Example:
  model = kairos_jax.load("runs/demo")
  stream = model.prefill(frames, "touch the ball that has the color of the bar")
  actions = model.act(stream, state)
  future = model.imagine(stream, frames=16)
  stream = model.extend(stream, frames_seen_meanwhile)
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, UInt8, UInt32

from data_pipelines.normalize import EmbodimentNormalizer
from kairos_jax import released
from kairos_jax import seeds as seeds_lib
from kairos_jax.errors import KairosError
from kairos_jax.flow import sampler
from kairos_jax.flow.chunking import soft_mask
from kairos_jax.flow.schedule import ACTION_SHIFT, DMD_SHIFT, Schedule, dmd_schedule, flow_schedule, video_shift
from kairos_jax.interfaces import Context, num_latents
from kairos_jax.interop import saved_model
from kairos_jax.interop.saved_model import SavedModel
from kairos_jax.model import WorldActionModel
from kairos_jax.runtime.stream import Stream

Frames = UInt8[np.ndarray, "B T H W 3"] | UInt8[np.ndarray, "T H W 3"]
Params = dict[str, Any]


class WorldModel:
  """A trained world-action model. Pure: streams and seeds go in, streams and arrays come out.

  All methods take one episode or a batch of them (a leading axis B); each shape compiles once. Parameters are
  arguments of what is compiled.
  """

  def __init__(self, saved: SavedModel):
    self.saved = saved
    self.codec, self.encoder, self.params = saved.codec, saved.encoder, saved.params
    self.model = WorldActionModel(saved.model_config)
    self._begin, self._extend = jax.jit(self.begin), jax.jit(self.see)
    self._extend_latents = jax.jit(self.remember)
    self._act = jax.jit(self.decide, static_argnames="steps")
    self._imagine = jax.jit(self.foresee, static_argnames=("count", "steps", "guidance"))
    self._decode = jax.jit(self.show)

  def prefill(self, frames: Frames, instruction: str | Sequence[str]) -> Stream:
    """Begins a stream with its first frames of history: the codec's first ones and k latents' worth more (uint8).

    Raises:
      KairosError: another number or shape of frames, or not one instruction for each episode.
    """
    frames = self.batched(frames)
    texts = [instruction] * len(frames) if isinstance(instruction, str) else list(instruction)
    if len(texts) != len(frames):
      raise KairosError(f"{len(texts)} instructions for {len(frames)} episodes; give one, or one each")
    return self._begin(self.params, frames, self.encoder.tokenize(texts))

  def extend(self, stream: Stream, frames: Frames) -> Stream:
    """Makes new frames history, a whole number of latents' worth.

    Raises:
      KairosError: another number or shape of frames.
    """
    frames = self.batched(frames)
    self.check_frames(frames, stream.batch, stream.shape)
    return self._extend(self.params, stream, frames)

  def extend_latents(self, stream: Stream, latents: Float[Array, "B N h w C"]) -> Stream:
    """`extend` with frames already encoded, such as imagined ones."""
    return self._extend_latents(self.params, stream, latents)

  def act(
    self,
    stream: Stream,
    state: Float[np.ndarray, "B S"] | Float[np.ndarray, "S"],
    *,
    seed: int | Sequence[int] = 0,
    steps: int = 3,
    embodiment: str | None = None,
  ) -> Float[np.ndarray, "B A action_dim"] | Float[np.ndarray, "A action_dim"]:
    """The next chunk of actions, in the robot's units, from the stream's memory alone: no video is denoised.

    Args:
      state: of the robot now, in its own units.
      seed: of the noise; one for each episode makes its answer independent of the batch that it is in.
      steps: denoising steps; a distilled student takes its own.
      embodiment: which of the robots that the model drives; None is the first.

    Raises:
      KairosError: the model has no action tower or does not know the robot, the state has another width or is not
        finite, or `steps` is below 1.
    """
    robot = self.robot(embodiment)
    normal, mask = self.normal_states(np.atleast_2d(np.asarray(state, np.float32)), stream.batch, robot)
    check_count("steps", steps)
    own = self.own_actions(robot, stream.batch)
    actions = self._act(self.params, stream, normal, mask, own, seed_words(seed, stream.batch), steps=steps)
    actions = robot.action.denormalize(np.asarray(actions)[..., : robot.action.dim])
    return actions if np.ndim(state) == 2 else actions[0]

  def imagine(
    self,
    stream: Stream,
    frames: int = 16,
    *,
    seed: int | Sequence[int] = 0,
    steps: int = 3,
    guidance: float = 1.0,
    negative: Stream | None = None,
  ) -> UInt8[np.ndarray, "B T H W 3"]:
    """The next `frames` frames as the model expects them.

    Args:
      seed: see `act`.
      steps: denoising steps; few give what is expected on average, many a sharper sample (docs/results.md). A
        distilled student takes its own.
      guidance: how far the instruction is followed beyond what the model expects; 1 is not at all.
      negative: the same videos under another instruction, such as "", which guidance leads away from.

    Raises:
      KairosError: not a whole number of latents' worth of frames, `steps` is below 1, or guidance without `negative`.
    """
    count = self.latents_of(frames)
    latents = self.imagine_latents(stream, count, seed=seed, steps=steps, guidance=guidance, negative=negative)
    return self.decode(stream, latents)[0]

  def imagine_latents(
    self,
    stream: Stream,
    count: int,
    *,
    seed: int | Sequence[int] = 0,
    steps: int = 3,
    guidance: float = 1.0,
    negative: Stream | None = None,
  ) -> Float[Array, "B N h w C"]:
    """The next `count` latent frames. Raises KairosError as `imagine` does, or if `count` is below 1."""
    check_count("count", count)
    check_count("steps", steps)
    if guidance != 1.0 and negative is None:
      raise KairosError(f"guidance is {guidance}, which needs `negative`: the same videos under another instruction")
    if negative is not None and (negative.batch, negative.shape) != (stream.batch, stream.shape):
      raise KairosError(f"`negative` has {negative.batch} videos of {negative.shape}; these are {stream.batch}")
    words = seed_words(seed, stream.batch)
    return self._imagine(self.params, stream, words, negative, count=count, steps=steps, guidance=guidance)

  def decode(self, stream: Stream, latents: Float[Array, "B N h w C"]) -> tuple[UInt8[np.ndarray, "B T H W 3"], Stream]:
    """The pixels of latents that continue the stream's video, and the stream with its codec at their end."""
    pixels, codec = self._decode(self.params, stream, latents)
    return np.asarray(pixels), dataclasses.replace(stream, codec=codec)

  # What is compiled: pure functions of parameters and arrays, which slots compile again in their own way.

  def begin(self, params: Params, frames: UInt8[Array, "B T H W 3"], tokens: Any) -> Stream:
    """`prefill` of tokens."""
    return self.start(params, frames, self.encoder.encode(params["bridge"], tokens))

  def start(self, params: Params, frames: UInt8[Array, "B T H W 3"], context: Context) -> Stream:
    """`prefill` of a context."""
    latents, codec = self.codec.encode(params["codec"], frames)
    memory = self.model.apply({"params": params}, None, latents, context, method="extend")
    return Stream(memory, context, codec, (latents.shape[2], latents.shape[3]))

  def see(self, params: Params, stream: Stream, frames: UInt8[Array, "B T H W 3"]) -> Stream:
    """`extend`."""
    latents, codec = self.codec.encode(params["codec"], frames, stream.codec)
    return dataclasses.replace(self.remember(params, stream, latents), codec=codec)

  def remember(self, params: Params, stream: Stream, latents: Float[Array, "B N h w C"]) -> Stream:
    """`extend_latents`."""
    memory = self.model.apply({"params": params}, stream.memory, latents, stream.context, method="extend")
    return dataclasses.replace(stream, memory=memory)

  def decide(
    self,
    params: Params,
    stream: Stream,
    state: Float[Array, "B S"],
    state_mask: Bool[Array, "B S"],
    action_mask: Bool[Array, "B action_dim"],
    words: UInt32[Array, "B 2"],
    previous: Float[Array, "B A action_dim"] | None = None,
    left: Int32[Array, "B"] | None = None,
    delay: Int32[Array, "B"] | None = None,
    *,
    steps: int,
  ) -> Float[Array, "B A action_dim"]:
    """`act` in the model's units and width; what a robot lacks of its action dimensions is 0.

    With `previous` the chunk continues the `left` actions that are left of the one before, `delay` of which will have
    been executed: as it was trained to, where it was (`max_delay`), and else by guidance; see `flow.chunking`.
    """
    action = self.saved.model_config.action
    assert action is not None  # `robot` has checked
    context = self.model.apply({"params": params}, stream.context, state, state_mask, method="with_state")
    noise = _noise(words, (self.saved.action_horizon, action.action_dim))
    schedule, integrate = self._steps(self.saved.action_times, steps, ACTION_SHIFT)
    inputs = (stream.memory, noise, schedule, context)
    before: dict[str, Any] = dict(previous=previous, integrate=integrate)
    if previous is not None and self.saved.max_delay:
      before["prefix"] = jnp.minimum(delay, self.saved.max_delay)
    elif left is not None and delay is not None:
      horizon = self.saved.action_horizon
      before["previous_weights"] = soft_mask(horizon, delay, horizon - left)
    return sampler.sample_actions(self.model, params, *inputs, action_mask=action_mask, **before)[0]

  def foresee(
    self,
    params: Params,
    stream: Stream,
    words: UInt32[Array, "B 2"],
    negative: Stream | None = None,
    *,
    count: int,
    steps: int,
    guidance: float = 1.0,
  ) -> Float[Array, "B N h w C"]:
    """`imagine_latents`."""
    video = self.saved.model_config.video
    noise = _noise(words, (count, *stream.shape, video.channels))
    shift = video_shift(video.tokens_per_frame(*stream.shape), count)
    schedule, integrate = self._steps(self.saved.video_times, steps, shift)
    inputs = (noise, schedule, stream.context)
    guided: dict[str, Any] = dict(guidance=guidance)
    if negative is not None:
      guided |= dict(negative=negative.context, negative_memory=negative.memory)
    return sampler.sample_video(self.model, params, *inputs, memory=stream.memory, integrate=integrate, **guided)[0]

  def _steps(self, times: tuple[float, ...], steps: int, shift: float) -> tuple[Schedule, Callable[..., Any]]:
    """The levels of a tower and how it walks them: so many, or a student's own."""
    if times:
      return dmd_schedule(times, DMD_SHIFT), sampler.few_steps
    return flow_schedule(steps, shift), sampler.euler

  def show(self, params: Params, stream: Stream, latents: Float[Array, "B N h w C"]) -> tuple[Array, Any]:
    """`decode`: uint8 pixels and the codec's state."""
    video, codec = self.codec.decode(params["codec"], latents, stream.codec)
    return jnp.round((video + 1) * 127.5).astype(jnp.uint8), codec

  # What is refused, in one line each.

  def batched(self, frames: Frames) -> UInt8[np.ndarray, "B T H W 3"]:
    """Frames with a batch axis. Raises KairosError unless they are uint8 pictures."""
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim not in (4, 5):
      raise KairosError(f"frames are {frames.dtype} {frames.shape}; they must be uint8 [T, H, W, 3] or [B, T, H, W, 3]")
    return frames[None] if frames.ndim == 4 else frames

  def check_frames(self, frames: UInt8[np.ndarray, "B T H W 3"], batch: int, shape: tuple[int, int]) -> None:
    """Raises KairosError unless the frames continue so many streams of latent frames of this shape."""
    self.check_pictures(frames, batch, shape)
    self.latents_of(frames.shape[1])

  def check_pictures(self, frames: UInt8[np.ndarray, "B T H W 3"], batch: int, shape: tuple[int, int]) -> None:
    """Raises KairosError unless there are frames for so many streams of latent frames of this shape."""
    height, width = (side * self.codec.space_stride for side in shape)
    if frames.shape[0] != batch or frames.shape[2:] != (height, width, 3):
      raise KairosError(f"frames are {frames.shape}; this stream continues with [{batch}, T, {height}, {width}, 3]")

  def latents_of(self, frames: int) -> int:
    """Latents in so many frames that continue a video. Raises KairosError unless they are whole, and one or more."""
    stride = self.codec.time_stride
    if frames < 1 or frames % stride:
      raise KairosError(f"frames is {frames}; it must be a positive multiple of {stride}")
    return num_latents(self.codec, frames, begins=False)

  def robot(self, embodiment: str | None) -> EmbodimentNormalizer:
    """The robot of this name, or the first. Raises KairosError if the model does not know it, or cannot act."""
    if self.saved.model_config.action is None or not self.saved.embodiments:
      raise KairosError("this model has no action tower: it was not trained through the robot stage")
    name = embodiment or next(iter(self.saved.embodiments))
    if name not in self.saved.embodiments:
      raise KairosError(f"embodiment is {name!r}; this model drives {', '.join(self.saved.embodiments)}")
    return self.saved.embodiments[name]

  def normal_states(
    self, states: Float[np.ndarray, "B S"], batch: int, robot: EmbodimentNormalizer
  ) -> tuple[Float[np.ndarray, "B state_dim"], Bool[np.ndarray, "B state_dim"]]:
    """States in the model's units and width, and which of its numbers the robot has.

    Raises:
      KairosError: another shape, NaN or infinity.
    """
    dim = robot.state.dim
    if states.shape != (batch, dim):
      raise KairosError(f"state is {states.shape}; it must be {(batch, dim)}: episodes, numbers")
    if not np.isfinite(states).all():
      row = int(np.flatnonzero(~np.isfinite(states).all(axis=1))[0])
      raise KairosError(f"state of episode {row} is {states[row].tolist()}; all numbers must be finite")
    action = self.saved.model_config.action
    assert action is not None  # `robot` has checked
    more = [(0, 0), (0, action.state_dim - dim)]
    return np.pad(robot.state.normalize(states), more), np.pad(np.ones(states.shape, bool), more)

  def normal_previous(
    self, previous: Sequence[Float[np.ndarray, "_ own_dim"]], delays: Sequence[int], robot: EmbodimentNormalizer
  ) -> tuple[Float[np.ndarray, "B A action_dim"], Int32[np.ndarray, "B"], Int32[np.ndarray, "B"]]:
    """What is left of chunks, in the model's units and size, how many actions these are, and the delays.

    Raises:
      KairosError: nothing is left, or a whole chunk; or a delay is longer than what is left or was executed.
    """
    action, horizon = self.saved.model_config.action, self.saved.action_horizon
    assert action is not None  # `robot` has checked
    chunks = np.zeros((len(previous), horizon, robot.action.dim), np.float32)
    for chunk, left, delay in zip(chunks, previous, delays, strict=True):
      if not 0 < len(left) < horizon or not 0 <= delay <= min(len(left), horizon - len(left)):
        raise KairosError(f"previous has {len(left)} of {horizon} actions and a delay of {delay}; see flow.chunking")
      chunk[: len(left)] = left
    lengths = np.asarray([len(left) for left in previous], np.int32)
    more = [(0, 0), (0, 0), (0, action.action_dim - robot.action.dim)]
    return np.pad(np.asarray(robot.action.normalize(chunks), np.float32), more), lengths, np.asarray(delays, np.int32)

  def own_actions(self, robot: EmbodimentNormalizer, batch: int) -> Bool[np.ndarray, "B action_dim"]:
    """Which of the model's action dimensions the robot has, for each episode."""
    action = self.saved.model_config.action
    assert action is not None  # `robot` has checked
    return np.tile(np.arange(action.action_dim) < robot.action.dim, (batch, 1))


def load(model: str | Path, *, weights: str | Path | None = None, dtype: str = "bfloat16") -> WorldModel:
  """Loads a trained model from its run's folder, or a released one by its name from its official files.

  Args:
    model: the folder; with `weights` the name, one of those that `kairos models` lists.
    weights: the folder that holds the official files.
    dtype: of a released model's weights in memory and of its computation, "bfloat16" or "float32".

  Raises:
    KairosError: there is none, or it is damaged; see `released.load`.
  """
  if weights is not None:
    return WorldModel(released.load(str(model), weights, dtype=dtype))
  return WorldModel(saved_model.load(model))


def check_count(name: str, value: int) -> None:
  """Raises KairosError unless a number of things is 1 or more."""
  if value < 1:
    raise KairosError(f"{name} is {value}; it must be 1 or more")


def seed_words(seed: int | Sequence[int], batch: int) -> UInt32[np.ndarray, "B 2"]:
  """One 64-bit seed for each episode as two words; a single seed gives every episode one of its own.

  Raises:
    KairosError: not one seed for each episode, or a negative one.
  """
  if isinstance(seed, int | np.integer):
    seed = [seeds_lib.derive(int(seed), "episode", row) for row in range(batch)]
  if len(seed) != batch or any(not 0 <= value < 2**64 for value in seed):
    raise KairosError(f"seeds {list(seed)} for {batch} episodes; give one of 0 to 2**64 - 1 for each")
  return np.asarray([(value >> 32, value & 0xFFFFFFFF) for value in map(int, seed)], np.uint32)


def _noise(words: UInt32[Array, "B 2"], shape: tuple[int, ...]) -> Float[Array, "B ..."]:
  """Normal numbers of each episode from its own seed alone, so that no batch changes them."""
  key = lambda word: jax.random.fold_in(jax.random.key(word[0]), word[1])  # noqa: E731
  return jax.vmap(lambda word: jax.random.normal(key(word), shape))(words)
