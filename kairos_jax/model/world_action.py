"""The world-action model: video tower and action tower as a Mixture-of-Transformers.

Nothing on the video side ever reads an action, so the towers need no interleaving: the video pass leaves the keys
and values of its history, and the action pass reads them. Joint denoising, training and the action-only policy are then
the same two calls, and tests/model/test_memory.py holds their actions equal.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kairos_jax.interfaces import Context
from kairos_jax.model import memory as memory_lib
from kairos_jax.model.action_tower import ActionTower
from kairos_jax.model.config import WorldActionConfig
from kairos_jax.model.memory import FrameCache, Memory
from kairos_jax.model.video_tower import Reuse, VideoTower, history_frames
from pallas_kernels.window_attention import Span


class WorldActionModel(nn.Module):
  """Call its methods with `model.apply({"params": params}, ..., method="denoise_video")`."""

  config: WorldActionConfig

  def setup(self):
    video = self.config.video
    self.video = VideoTower(video)
    if self.config.action is not None:
      self.action = ActionTower(self.config.action, video.groups, len(video.group))

  def denoise_video(
    self,
    latents: Float[Array, "B F H W C"],
    timestep: Float[Array, "B"],
    context: Context,
    *,
    num_observed: int | Int[Array, "B"] = 0,
    length: Int[Array, "B"] | None = None,
    memory: Memory | None = None,
  ) -> Float[Array, "B F H W C"]:
    """Velocity of latent frames; see `VideoTower`."""
    velocity, _ = self.video(latents, timestep, context, num_observed=num_observed, length=length, memory=memory)
    return velocity

  def denoise_video_again(
    self,
    latents: Float[Array, "B F H W C"],
    timestep: Float[Array, "B"],
    context: Context,
    reuse: Reuse,
    *,
    num_observed: int = 0,
  ) -> tuple[Float[Array, "B F H W C"], Float[Array, "B F L D"]]:
    """As `denoise_video`, with its blocks or with what they added before; also returns what was added."""
    return self.video(latents, timestep, context, num_observed=num_observed, reuse=reuse)

  def extend(self, memory: Memory | None, latents: Float[Array, "B F H W C"], context: Context) -> Memory:
    """Makes clean latent frames history. `memory=None` begins a stream (prefill).

    Equal to one pass over all frames under a block-causal mask with the same stretches: windows look both ways
    inside a stretch and only back across stretches.

    Raises:
      KairosError: the token-level rule, which cannot stream.
    """
    frames = latents.shape[1]
    now = jnp.zeros(latents.shape[0])
    _, written = self.video(latents, now, context, num_observed=frames, memory=memory, remember=True)
    return memory_lib.extend(self.config, memory, written, frames)

  def denoise_actions(
    self,
    memory: Memory,
    actions: Float[Array, "B A action_dim"],
    timestep: Float[Array, "B"] | Float[Array, "B A"],
    context: Context,
  ) -> Float[Array, "B A action_dim"]:
    """Velocity of an action chunk, from the memory alone: the policy's path."""
    seen = Span()
    if cache := next(iter(memory.action.values()), None):
      seen = Span(start=memory_lib.first_frame(cache, memory.position))
    return self.action(actions, timestep, context, memory.action, seen)

  def denoise_joint(
    self,
    latents: Float[Array, "B F H W C"],
    timestep: Float[Array, "B"],
    actions: Float[Array, "BR A action_dim"],
    action_timestep: Float[Array, "BR"] | Float[Array, "BR A"],
    context: Context,
    action_context: Context | None = None,
    *,
    num_observed: int | Int[Array, "B"],
    action_num_observed: Int[Array, "BR"] | None = None,
    length: Int[Array, "B"] | None = None,
  ) -> tuple[Float[Array, "B F H W C"], Float[Array, "BR A action_dim"]]:
    """Velocities of video and actions together.

    Args:
      actions: R chunks for each clip (clip-major), which share the clip's one video pass.
      action_context: what the action tower reads, one for each clip or each chunk; None: the video tower's.
      num_observed: frames that are observed.
      action_num_observed: after how many of these each chunk is decided; None: all. Fewer only make sense with
        `causal_history`. A chunk reads the latest `video_frames` of them, as it does from a memory.
    """
    velocity, written = self.video(latents, timestep, context, num_observed=num_observed, length=length, remember=True)
    most = num_observed if isinstance(num_observed, int) else latents.shape[1]
    video = history_frames(written, self.config.video, most)
    if action_num_observed is None:
      draws = actions.shape[0] // latents.shape[0]
      action_num_observed = jnp.repeat(jnp.broadcast_to(jnp.asarray(num_observed), latents.shape[:1]), draws)
    action_context = action_context or context
    return velocity, self.denoise_chunks(video, actions, action_timestep, action_context, action_num_observed)

  def watch(
    self,
    latents: Float[Array, "B F H W C"],
    context: Context,
    *,
    num_observed: Int[Array, "B"],
    length: Int[Array, "B"] | None = None,
  ) -> dict[str, FrameCache]:
    """What `denoise_chunks` reads of a clip whose first frames are observed, as in `denoise_joint`."""
    now = jnp.zeros(latents.shape[0])
    _, written = self.video(latents, now, context, num_observed=num_observed, length=length, remember=True)
    return history_frames(written, self.config.video, latents.shape[1])

  def denoise_chunks(
    self,
    video: dict[str, FrameCache],
    actions: Float[Array, "BR A action_dim"],
    timestep: Float[Array, "BR"] | Float[Array, "BR A"],
    context: Context,
    num_observed: Int[Array, "BR"],
  ) -> Float[Array, "BR A action_dim"]:
    """Velocity of action chunks, R for each clip (clip-major), each after so many frames of what `watch` saw.

    Args:
      context: one for each clip or each chunk.
    """
    clips = jax.tree.leaves(video)[0].shape[1]
    if (draws := actions.shape[0] // clips) > 1:
      video = _repeat(video, draws, axis=1)
      if context.tokens.shape[0] < actions.shape[0]:
        context = _repeat(context, draws, axis=0)
    assert self.config.action is not None, "actions need an action tower"
    bound = self.config.action.video_frames
    start = None if bound is None else jnp.maximum(num_observed - bound, 0)
    return self.action(actions, timestep, context, video, Span(start=start, stop=num_observed))

  def with_state(
    self,
    context: Context,
    state: Float[Array, "B S"] | Float[Array, "B n S"],
    state_mask: Bool[Array, "B S"] | Bool[Array, "B n S"] | None = None,
  ) -> Context:
    """Appends the robot's state to the context; see `ActionTower.with_state`."""
    return self.action.with_state(context, state, state_mask)

  def _touch(self, latents: Array, context: Context) -> None:
    """Runs every part once, so that `init` creates all parameters."""
    now = jnp.zeros(latents.shape[0])
    if self.config.action is None:
      self.denoise_video(latents, now, context)
      return
    action = self.config.action
    context = self.with_state(context, jnp.zeros((latents.shape[0], action.state_dim)))
    self.denoise_joint(latents, now, jnp.zeros((latents.shape[0], 1, action.action_dim)), now, context, num_observed=1)


def _repeat(tree: Any, times: int, axis: int) -> Any:
  return jax.tree.map(lambda x: jnp.repeat(x, times, axis), tree)


def init_params(config: WorldActionConfig, key: Array) -> dict[str, Any]:
  """Fresh parameters {"video": ..., "action": ...}. Every shape is independent of the clip's size."""
  video = config.video
  latents = jnp.zeros((1, 2, video.patch[1], video.patch[2], video.channels))
  context = Context(jnp.zeros((1, 1, video.text_dim)))
  return WorldActionModel(config).init(key, latents, context, method="_touch")["params"]
