"""The towers as networks of the objectives: what a batch gives them, and their velocities.

A network is one tower's parameters. All else (the codec, the context encoder, and for actions the video tower, whose
memory they read) is frozen and the same for student, critic and teacher, so it is computed once for a batch.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kairos_jax.errors import KairosError
from kairos_jax.flow.objective import Batch, Objective, Params, latents_of
from kairos_jax.flow.objectives.terms import Data
from kairos_jax.flow.sampler import mix
from kairos_jax.flow.schedule import ACTION_SHIFT, TRAIN_TIMESTEPS, Schedule, flow_schedule, video_shift
from kairos_jax.interfaces import Context


class VideoCondition(NamedTuple):
  """What the video tower reads beside noisy latents; `without` is the context of an empty text."""

  history: Float[Array, "B F h w C"]
  is_history: Bool[Array, "B F"]
  num_observed: Int[Array, "B"]
  length: Int[Array, "B"]
  context: Context
  without: Context


@dataclasses.dataclass(frozen=True, eq=False)
class VideoNetworks:
  """Latents after observed ones, or of a whole video, as the objective's tasks say."""

  objective: Objective

  def data(self, params: Params, batch: Batch, key: Array) -> Data:
    """The batch's latents; how many of them are observed and whether the text is read is drawn."""
    objective = self.objective
    clean = latents_of(objective.codec, params, batch)
    draws = objective.draw(batch, clean.shape, key)
    frame = jnp.arange(clean.shape[1])
    is_history = frame < draws.num_observed[:, None]
    context = objective.context(params, batch, draws)
    without = objective.encoder.encode(params.get("bridge", {}), objective.encoder.without_text(batch["tokens"]))
    condition = VideoCondition(clean, is_history, draws.num_observed, draws.length, context, without)
    return Data(clean, ~is_history & (frame < draws.length[:, None]), condition)

  def velocity(
    self, tower: Params, noisy: Float[Array, "B F h w C"], sigma: Float[Array, "B"], condition: VideoCondition
  ) -> Float[Array, "B F h w C"]:
    """Of the video tower."""
    return self._read(tower, noisy, sigma, condition, condition.context)

  def guided(self, guidance: float) -> Any:
    """The velocity with classifier-free guidance."""
    if guidance == 1.0:
      return self.velocity

    def velocity(tower: Params, noisy: Array, sigma: Array, condition: VideoCondition) -> Array:
      without = self._read(tower, noisy, sigma, condition, condition.without)
      return mix(self.velocity(tower, noisy, sigma, condition), without, guidance)

    return velocity

  def levels(self, steps: int, shape: tuple[int, ...]) -> Schedule:
    """Of a teacher's sampler, for latents of this shape, [B F h w C]."""
    return flow_schedule(steps, self.shift(shape))

  def shift(self, shape: tuple[int, ...]) -> float:
    """Of the noise levels of latents of this shape, [B F h w C]."""
    return video_shift(self.objective.model.config.video.tokens_per_frame(*shape[2:4]), shape[1])

  def _read(self, tower: Params, noisy: Array, sigma: Array, given: VideoCondition, context: Context) -> Array:
    latents = jnp.where(given.is_history[..., None, None, None], given.history, noisy)
    return self.objective.model.apply(
      {"params": {"video": tower}},
      latents,
      sigma * TRAIN_TIMESTEPS,
      context,
      num_observed=given.num_observed,
      length=given.length,
      method="denoise_video",
    )


class ActionCondition(NamedTuple):
  """What the action tower reads beside noisy actions; `has` marks the numbers that a robot has."""

  seen: Any
  context: Context
  state: Float[Array, "BR S"]
  state_mask: Bool[Array, "BR S"]
  num_observed: Int[Array, "BR"]
  has: Bool[Array, "BR 1 action_dim"]


@dataclasses.dataclass(frozen=True, eq=False)
class ActionNetworks:
  """Chunks of actions, R for each clip, each decided after some of the observed latents."""

  objective: Objective

  def __post_init__(self):
    """KairosError for an objective without actions, or with given ones at a chunk's begin."""
    config = self.objective.config
    if not config.action_horizon or config.max_delay:
      raise KairosError(
        f"max_delay is {config.max_delay} and the horizon {config.action_horizon}; allowed: 0, and 1 on"
      )

  def data(self, params: Params, batch: Batch, key: Array) -> Data:
    """The batch's chunks; when each is decided is drawn."""
    objective, chunks = self.objective, self.objective.config.chunks_per_clip
    clean = latents_of(objective.codec, params, batch)
    draws = objective.draw(batch, clean.shape, key)
    assert draws.action_num_observed is not None
    context = objective.context(params, batch, draws)
    seen = objective.model.apply(
      {"params": {"video": params["video"]}},
      clean,
      context,
      num_observed=draws.num_observed,
      length=draws.length,
      method="watch",
    )
    actions, mask, state, state_mask = objective.decisions(batch, draws.action_num_observed)
    has = jnp.repeat(batch["action_mask"].any(axis=1, keepdims=True), chunks, axis=0)
    contexts = jax.tree.map(lambda x: jnp.repeat(x, chunks, axis=0), context)
    return Data(actions, mask, ActionCondition(seen, contexts, state, state_mask, draws.action_num_observed, has))

  def velocity(
    self, tower: Params, noisy: Float[Array, "BR A action_dim"], sigma: Float[Array, "BR"], condition: ActionCondition
  ) -> Float[Array, "BR A action_dim"]:
    """Of the action tower."""
    model, params = self.objective.model, {"params": {"action": tower}}
    context = model.apply(params, condition.context, condition.state, condition.state_mask, method="with_state")
    return model.apply(
      params,
      condition.seen,
      jnp.where(condition.has, noisy, 0.0),
      sigma * TRAIN_TIMESTEPS,
      context,
      condition.num_observed,
      method="denoise_chunks",
    )

  def guided(self, guidance: float) -> Any:
    """The velocity; raises KairosError for guidance, which is on video alone."""
    if guidance != 1.0:
      raise KairosError(f"guidance is {guidance}; allowed for actions: 1")
    return self.velocity

  def levels(self, steps: int, shape: tuple[int, ...]) -> Schedule:
    """Of a teacher's sampler."""
    del shape
    return flow_schedule(steps, ACTION_SHIFT)
