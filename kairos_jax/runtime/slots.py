"""Many episodes that come and go, in a pool of slots whose memory never moves.

Example:
  slots = Slots(model, capacity=8)
  slots.insert(3, model.prefill(first_frame, "touch the red ball"))
  slots.extend([3, 5], frames)              # any subset steps together, each at its own position
  actions = slots.act([3], states, seeds=[7])
  actions = slots.step([3, 5], frames, states, seeds=[7, 8])  # both at once, which is faster
  slots.fork(3, 6)                          # slot 6 goes on from where slot 3 is
  slots.reset([3], first_frames)            # a new episode with the same instruction
  slots.drop([5])
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, UInt8

from data_pipelines.normalize import EmbodimentNormalizer
from kairos_jax.errors import KairosError
from kairos_jax.model.memory import require_constant_size
from kairos_jax.runtime import stream as stream_lib
from kairos_jax.runtime.stream import Stream
from kairos_jax.runtime.world_model import Params, WorldModel, check_count, seed_words


def bucket(count: int) -> int:
  """The batch size at which so many streams run: a power of two, so that few programs are compiled."""
  return 1 << (count - 1).bit_length()


class Slots:
  """A pool of streams of one picture size.

  A call for n slots runs at the next batch size of 1, 2, 4, 8, ... (none is below `smallest`) with the rest masked out,
  so each method compiles once for a batch size and a number of frames, whatever slots are meant. Buffers are donated:
  they are updated in place, and a failed check leaves them as they were. Not thread-safe.

  Attributes:
    capacity: number of slots.
    occupied: which of them hold a stream.
  """

  def __init__(self, model: WorldModel, capacity: int, *, smallest: int = 1):
    """Makes empty slots; their buffers are allocated when the first stream is inserted.

    Args:
      model: with a memory of constant size.
      capacity: number of slots.
      smallest: batch size that runs at least. A larger one compiles less often, and computes more in vain.

    Raises:
      KairosError: the capacity or the smallest batch is below 1, or the model's memory grows with its history.
    """
    check_count("capacity", capacity)
    check_count("smallest", smallest)
    require_constant_size(model.saved.model_config)
    self.capacity = capacity
    self.occupied: set[int] = set()
    self._smallest = smallest
    self._model = model
    self._pool: Stream | None = None
    self._put = jax.jit(stream_lib.put, donate_argnums=0)
    self._fork = jax.jit(_fork, donate_argnums=0)
    self._reset = jax.jit(self._reset_fn, donate_argnums=1)
    self._extend = jax.jit(self._extend_fn, donate_argnums=1)
    self._act = jax.jit(self._act_fn, static_argnames="steps")
    self._step = jax.jit(self._step_fn, donate_argnums=1, static_argnames="steps")
    self._imagine = jax.jit(self._imagine_fn, static_argnames=("count", "steps"))
    self._decode = jax.jit(self._decode_fn)

  def insert(self, slot: int, stream: Stream) -> None:
    """Puts a stream of one episode into a slot, in place of what was there.

    Raises:
      KairosError: no such slot, more than one episode, or another picture size or length of the context than the
        streams before.
    """
    if stream.batch != 1:
      raise KairosError(f"a slot holds one episode; the stream has {stream.batch}")
    if not 0 <= slot < self.capacity:
      raise KairosError(f"slot {slot} does not exist; there are 0 to {self.capacity - 1}")
    if self._pool is None:
      self._pool = _empty(stream, self.capacity)
    if stream.shape != self._pool.shape:
      raise KairosError(f"latent frames of the stream are {stream.shape}; those of the slots are {self._pool.shape}")
    tokens, width = stream.context.tokens.shape[1:]
    if (tokens, width) != self._pool.context.tokens.shape[1:]:
      allowed = self._pool.context.tokens.shape[1:]
      raise KairosError(f"context of the stream is {(tokens, width)}; those of the slots are {allowed}: tokens, width")
    self._pool = self._put(self._pool, np.asarray([slot], np.int32), stream)
    self.occupied.add(slot)

  def reset(self, slots: Sequence[int], frames: UInt8[np.ndarray, "N T H W 3"]) -> None:
    """Begins new episodes in the place of some streams, with their first frames; instructions stay.

    Raises:
      KairosError: an empty slot, or frames that `WorldModel.prefill` refuses or that have another picture size.
    """
    pool = self._check(slots)
    frames = self._model.batched(frames)
    self._model.check_pictures(frames, len(slots), pool.shape)
    index, frames = self._bucket(slots, frames)
    self._pool = self._reset(self._model.params, pool, index, frames)

  def drop(self, slots: Sequence[int]) -> None:
    """Forgets streams. Raises KairosError for an empty slot."""
    self._check(slots)
    self.occupied -= set(slots)

  def fork(self, source: int, target: int) -> None:
    """Copies a stream into another slot, in place of what was there. Raises KairosError for an empty source."""
    self._check([source])
    if not 0 <= target < self.capacity:
      raise KairosError(f"slot {target} does not exist; there are 0 to {self.capacity - 1}")
    self._pool = self._fork(self._pool, np.int32(source), np.int32(target))
    self.occupied.add(target)

  def extend(self, slots: Sequence[int], frames: UInt8[np.ndarray, "N T H W 3"]) -> None:
    """Makes new frames history of some streams. Raises KairosError as `WorldModel.extend` does."""
    pool = self._check(slots)
    frames = self._model.batched(frames)
    self._model.check_frames(frames, len(slots), pool.shape)
    index, frames = self._bucket(slots, frames)
    self._pool = self._extend(self._model.params, pool, index, frames)

  def act(
    self,
    slots: Sequence[int],
    states: Float[np.ndarray, "N S"],
    *,
    seeds: Sequence[int],
    steps: int = 3,
    embodiment: str | None = None,
    previous: Sequence[Float[np.ndarray, "_ action_dim"]] | None = None,
    delays: Sequence[int] = (),
  ) -> Float[np.ndarray, "N A action_dim"]:
    """The next actions of some streams of one robot, in its units.

    Args:
      previous: of each stream what is left of its chunk before, which the new one continues; None: of none.
      delays: of each stream, how many of these will have been executed; see `flow.chunking`.

    Raises:
      KairosError: as `WorldModel.act` does, or a delay that cannot be.
    """
    pool, robot = self._check(slots), self._model.robot(embodiment)
    rows = self._decision(slots, states, seeds, steps, robot, previous, delays)
    index, *padded = self._bucket(slots, *rows)
    actions = self._act(self._model.params, pool, index, *padded, steps=steps)
    return _own(actions, len(slots), robot)

  def step(
    self,
    slots: Sequence[int],
    frames: Sequence[UInt8[np.ndarray, "T H W 3"] | None],
    states: Float[np.ndarray, "N S"],
    *,
    seeds: Sequence[int],
    steps: int = 3,
    embodiment: str | None = None,
    previous: Sequence[Float[np.ndarray, "_ action_dim"]] | None = None,
    delays: Sequence[int] = (),
  ) -> Float[np.ndarray, "N A action_dim"]:
    """`extend` and then `act`, as one program: nothing returns to the host between the frames and the actions.

    Args:
      frames: of each stream what is new, all equally much; None leaves a stream as it is.
      states, seeds, steps, embodiment, previous, delays: as in `act`.

    Raises:
      KairosError: as both do, or no stream has new frames.
    """
    pool, robot = self._check(slots), self._model.robot(embodiment)
    fresh = np.asarray([new is not None for new in frames])
    some = [self._model.batched(new) for new in frames if new is not None]
    if len(frames) != len(slots) or not some or len({new.shape for new in some}) > 1:
      raise KairosError(
        f"{len(frames)} videos, {len(some)} of them new, for {len(slots)} slots; all need the same shape"
      )
    videos = np.concatenate([some[0] if new is None else self._model.batched(new) for new in frames])
    self._model.check_frames(videos, len(slots), pool.shape)
    index, *rows = self._bucket(
      slots, fresh, videos, *self._decision(slots, states, seeds, steps, robot, previous, delays)
    )
    self._pool, actions = self._step(self._model.params, pool, index, *rows, steps=steps)
    return _own(actions, len(slots), robot)

  def imagine(
    self, slots: Sequence[int], frames: int, *, seeds: Sequence[int], steps: int = 3
  ) -> UInt8[np.ndarray, "N T H W 3"]:
    """The next frames of some streams. Raises KairosError as `WorldModel.imagine` does."""
    latents = self._imagined(slots, self._model.latents_of(frames), seeds, steps)
    pixels = self._decode(self._model.params, self._check(slots), self._bucket(slots)[0], latents)
    return np.asarray(pixels)[: len(slots)]

  def imagine_latents(
    self, slots: Sequence[int], count: int, *, seeds: Sequence[int], steps: int = 3
  ) -> Float[np.ndarray, "N F h w C"]:
    """The next latent frames of some streams. Raises KairosError as `WorldModel.imagine_latents` does."""
    check_count("count", count)
    return np.asarray(self._imagined(slots, count, seeds, steps))[: len(slots)]

  def stream(self, slot: int) -> Stream:
    """A copy of one stream. Raises KairosError for an empty slot."""
    return stream_lib.take(self._check([slot]), jnp.asarray([slot]))

  def _decision(
    self,
    slots: Sequence[int],
    states: Float[np.ndarray, "N S"],
    seeds: Sequence[int],
    steps: int,
    robot: EmbodimentNormalizer,
    previous: Sequence[Float[np.ndarray, "_ action_dim"]] | None,
    delays: Sequence[int],
  ) -> tuple[np.ndarray, ...]:
    """What `decide` takes, a row for each slot."""
    normal, mask = self._model.normal_states(np.asarray(states, np.float32), len(slots), robot)
    check_count("steps", steps)
    before = () if previous is None else self._model.normal_previous(previous, delays, robot)
    return normal, mask, self._model.own_actions(robot, len(slots)), seed_words(seeds, len(slots)), *before

  def _imagined(self, slots: Sequence[int], count: int, seeds: Sequence[int], steps: int) -> Array:
    """Latents of the batch size that runs, on the device."""
    pool = self._check(slots)
    check_count("steps", steps)
    index, words = self._bucket(slots, seed_words(seeds, len(slots)))
    return self._imagine(self._model.params, pool, index, words, count=count, steps=steps)

  def _check(self, slots: Sequence[int]) -> Stream:
    if not len(slots) or len(set(slots)) != len(slots):
      raise KairosError(f"slots are {list(slots)}; give one or more, each once")
    if empty := [slot for slot in slots if slot not in self.occupied]:
      raise KairosError(f"slot {empty[0]} holds no stream; occupied are {sorted(self.occupied)}")
    assert self._pool is not None  # something was inserted
    return self._pool

  def _bucket(self, slots: Sequence[int], *rows: np.ndarray) -> tuple[Any, ...]:
    """Index and rows padded to the batch size that runs; index `capacity` is nobody's."""
    size = bucket(max(len(slots), self._smallest))
    index = np.full(size, self.capacity, np.int32)
    index[: len(slots)] = slots
    padded = [np.concatenate([x, np.zeros((size - len(x), *x.shape[1:]), x.dtype)]) for x in rows]
    return (index, *padded)

  def _reset_fn(self, params: Params, pool: Stream, index: Int32[Array, "N"], frames: Array) -> Stream:
    context = stream_lib.take(pool, index).context
    return stream_lib.put(pool, index, self._model.start(params, frames, context))

  def _extend_fn(self, params: Params, pool: Stream, index: Int32[Array, "N"], frames: Array) -> Stream:
    return stream_lib.put(pool, index, self._model.see(params, stream_lib.take(pool, index), frames))

  def _act_fn(self, params: Params, pool: Stream, index: Int32[Array, "N"], *decision: Array, steps: int) -> Array:
    return self._model.decide(params, stream_lib.take(pool, index), *decision, steps=steps)

  def _step_fn(
    self,
    params: Params,
    pool: Stream,
    index: Int32[Array, "N"],
    fresh: Bool[Array, "N"],
    frames: Array,
    *decision: Array,
    steps: int,
  ) -> tuple[Stream, Array]:
    seen = self._model.see(params, stream_lib.take(pool, index), frames)
    pool = stream_lib.put(pool, jnp.where(fresh, index, self.capacity), seen)
    return pool, self._act_fn(params, pool, index, *decision, steps=steps)

  def _imagine_fn(
    self, params: Params, pool: Stream, index: Int32[Array, "N"], words: Array, *, count: int, steps: int
  ) -> Array:
    return self._model.foresee(params, stream_lib.take(pool, index), words, count=count, steps=steps)

  def _decode_fn(self, params: Params, pool: Stream, index: Int32[Array, "N"], latents: Array) -> Array:
    return self._model.show(params, stream_lib.take(pool, index), latents)[0]


def _own(actions: Array, count: int, robot: EmbodimentNormalizer) -> Float[np.ndarray, "N A action_dim"]:
  """The actions of the slots that are meant, in the robot's units and width."""
  return robot.action.denormalize(np.asarray(actions)[:count, :, : robot.action.dim])


def _fork(pool: Stream, source: Array, target: Array) -> Stream:
  return stream_lib.put(pool, target[None], stream_lib.take(pool, source[None]))


def _empty(stream: Stream, capacity: int) -> Stream:
  """Zeros in the shape of so many streams like this one."""
  first = stream_lib.take(stream, jnp.zeros(capacity, jnp.int32))
  return jax.tree.map(jnp.zeros_like, first)
