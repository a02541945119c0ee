"""What the video tower remembers of the frames it has seen: one pytree, explicit, of a size that the rules fix.

Source: none in the reference, which recomputes its history at every denoising step and for every guidance branch.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kairos_jax.errors import KairosError
from kairos_jax.model.config import WorldActionConfig
from kairos_jax.model.gated_delta_net import DeltaState


@flax.struct.dataclass
class FrameCache:
  """Keys and values of the latest frames, newest last; outside the tower, a leading axis G counts layer groups.

  A cache of fixed capacity that is not yet full holds zeros in front, which `first_frame` leaves out. The stream's very
  first frames may lie before all that, as anchors that stay.
  """

  k: Float[Array, "*G B F L H D"]
  v: Float[Array, "*G B F L H D"]
  anchors: int = flax.struct.field(default=0, pytree_node=False)

  @property
  def frames(self) -> int:
    return self.k.shape[-4]

  def append(self, new: "FrameCache", capacity: int | None) -> "FrameCache":
    """Keeps the anchors and the latest `capacity` frames; None keeps all, and the cache grows."""

    def join(old, new):
      held, old = jnp.split(old, [self.anchors], axis=-4)
      joined = jnp.concatenate([old, new], axis=-4)
      latest = joined if capacity is None else joined[..., joined.shape[-4] - capacity :, :, :, :]
      return jnp.concatenate([held, latest], axis=-4)

    return FrameCache(join(self.k, new.k), join(self.v, new.v), self.anchors)

  @classmethod
  def empty(cls, like: "FrameCache", capacity: int | None, anchors: int = 0) -> "FrameCache":
    """A cache before the first frame, but for the anchors, which are the first frames of `like`."""

    def zeros(x):
      nothing = jnp.zeros((*x.shape[:-4], capacity or 0, *x.shape[-3:]), x.dtype)
      return jnp.concatenate([x[..., :anchors, :, :, :], nothing], axis=-4)

    return cls(zeros(like.k), zeros(like.v), anchors)


@flax.struct.dataclass
class Memory:
  """The history of a batch of streams.

  Attributes:
    position: frames that each stream has seen so far; streams of one batch may have begun at different moments.
    window: per attention layer of a group, the frames that a later frame can still see.
    delta: per GATED layer of a group, the delta net's state.
    action: per attention layer of a group, the frames that actions read.
  """

  position: Int[Array, "B"]
  window: dict[str, FrameCache]
  delta: dict[str, DeltaState]
  action: dict[str, FrameCache]


def extend(config: WorldActionConfig, memory: Memory | None, written: dict[str, Any], frames: int) -> Memory:
  """The memory after `frames` more frames, whose keys, values and states the tower has just `written`.

  Constant in size when no layer is FA, `all_see_history` is off and `config.action.video_frames` is set (or there
  is no action tower); else it grows by the new frames.

  Raises:
    KairosError: the rule is the token-level one, which cannot stream, or a stream begins with fewer frames than it has
      anchors.
  """
  video = config.video
  if memory is None and frames < video.anchors:
    raise KairosError(f"model.video.anchors is {video.anchors}; a stream begins with as many latents, not {frames}")
  if video.rule == "token":
    raise KairosError("model.video.rule is 'token', which cannot stream: its windows look ahead; use 'frame'")
  kinds = {layer_name(i): kind for i, kind in enumerate(video.group)}
  caches = {name: FrameCache(**written[name]) for name, kind in kinds.items() if kind != "GATED"}
  caches = jax.tree.map(lambda x: x[:, :, :frames], caches)  # what was written may be padded

  def grow(old, capacity, anchors=0):
    return {
      name: (old[name] if memory else FrameCache.empty(cache, capacity(kinds[name]), anchors)).append(
        cache, capacity(kinds[name])
      )
      for name, cache in caches.items()
    }

  action_frames = config.action.video_frames if config.action else 0
  batch = jax.tree.leaves(written)[0].shape[1]
  return Memory(
    position=(memory.position if memory else jnp.zeros(batch, jnp.int32)) + frames,
    window=grow(memory and memory.window, video.frames_in_view, video.anchors),
    delta={name: written[name] for name, kind in kinds.items() if kind == "GATED"},
    action=grow(memory and memory.action, lambda _: action_frames),
  )


def take(memory: Memory, index: Int[Array, "N"]) -> Memory:
  """The memory of some of the streams, in the order of `index`; an index beyond the last stream takes the last."""

  def rows(tree, axis):
    return jax.tree.map(lambda x: jnp.take(x, index, axis, mode="clip"), tree)

  return Memory(rows(memory.position, 0), *(rows(getattr(memory, name), 1) for name in _BY_LAYER))


def put(memory: Memory, index: Int[Array, "N"], part: Memory) -> Memory:
  """`memory` with `part` in place of the streams of `index`; an index beyond the last stream writes nothing."""
  position = memory.position.at[index].set(part.position, mode="drop")
  write = lambda x, new: x.at[:, index].set(new.astype(x.dtype), mode="drop")  # noqa: E731
  return Memory(position, *(jax.tree.map(write, getattr(memory, name), getattr(part, name)) for name in _BY_LAYER))


_BY_LAYER = ("window", "delta", "action")  # whose leaves have the groups' axis before the streams'


def require_constant_size(config: WorldActionConfig) -> None:
  """Raises KairosError unless a stream's memory stays of one size however long it runs."""
  for kind in config.video.group:
    if kind != "GATED" and config.video.frames_in_view(kind) is None:
      raise KairosError(f"{kind} layers of this model keep all frames, so its memory grows; SWA and DSWA keep a few")
  if config.action is not None and config.action.video_frames is None:
    raise KairosError("this model's actions read all frames, so its memory grows; set model.action.video_frames")


def first_frame(cache: FrameCache, position: Int[Array, "B"]) -> Int[Array, "B"]:
  """For each stream the index of the first frame of a cache, after its anchors, that holds anything else."""
  return jnp.maximum(cache.frames - jnp.maximum(position - cache.anchors, 0), cache.anchors)


def layer_name(index: int) -> str:
  """Name of a group's layer in parameters and memories."""
  return f"layer_{index}"
