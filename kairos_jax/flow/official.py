"""The objective of the reference's own training code, for its video tower alone.

One noise level for the whole batch, out of the 1,000 that a sampler of as many steps would visit; the first latent is
clean and left out of the loss, or there is none; the squared error is weighted by a bell over the timesteps. History
sees what comes after it, which the world-action model's does not.

Source: the reference's training code (kairos-agi/kairos, kairos/training); golden case c08, `train_exp`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kairos_jax.errors import KairosError
from kairos_jax.flow.objective import latents_of
from kairos_jax.flow.schedule import TRAIN_TIMESTEPS, Schedule, flow_schedule, video_shift
from kairos_jax.interfaces import Context, ContextEncoder, VideoCodec, num_latents
from kairos_jax.model import WorldActionModel, lora

Params = dict[str, Any]
Batch = Mapping[str, Any]

# Condition -> (the first latent is observed, what is read: the text, an empty one, or nothing at all).
CONDITIONS = {"t2v": (0, "text"), "ti2v": (1, "text"), "i2v": (1, "empty"), "unconditional": (0, "nothing")}


class OfficialDraws(NamedTuple):
  """All that chance decides of one loss: the condition and the level are the whole batch's."""

  condition: Int[Array, ""]  # index into the sorted `CONDITIONS`
  level: Int[Array, ""]  # index into the schedule
  noise: Float[Array, "B F h w C"]


@dataclasses.dataclass(frozen=True, eq=False)
class OfficialVideoObjective:
  """`objective(params, batch, key)`, as `Objective`, with params {"video", "bridge", "codec"} and maybe adapters.

  Attributes:
    tasks: how often each of `CONDITIONS` is drawn; the reference draws ti2v alone unless told.

  Raises:
    KairosError: on construction, tasks that are none of these, or a model whose history sees no later frames.
  """

  model: WorldActionModel
  encoder: ContextEncoder
  codec: VideoCodec
  tasks: Mapping[str, float]
  adapter_scale: float = 1.0

  def __post_init__(self):
    weights = {task: weight for task, weight in self.tasks.items() if weight}
    if not weights or set(weights) - set(CONDITIONS):
      raise KairosError(f"tasks {dict(self.tasks)}: the official objective has {', '.join(CONDITIONS)}")
    video = self.model.config.video
    if video.causal_history:
      raise KairosError("model.video.causal_history is True; the official objective's history sees later frames")
    unrestricted = dataclasses.replace(self.model.config, video=dataclasses.replace(video, history_sees_future=True))
    object.__setattr__(self, "model", WorldActionModel(unrestricted))

  def __call__(self, params: Params, batch: Batch, key: Array) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss and its parts; of the batch, video (or latents), length and tokens are read."""
    clean = latents_of(self.codec, params, batch)
    return self.loss(params, batch, clean, self.draw(clean.shape, key))

  def schedule(self, shape: tuple[int, ...]) -> Schedule:
    """The levels and weights for latents of this shape, [B F h w C]."""
    tokens = self.model.config.video.tokens_per_frame(*shape[2:4])
    return flow_schedule(TRAIN_TIMESTEPS, video_shift(tokens, shape[1]))

  def draw(self, shape: tuple[int, ...], key: Array) -> OfficialDraws:
    """Draws one condition and one level for the batch, and its noise."""
    condition_key, level_key, noise_key = jax.random.split(key, 3)
    weights = jnp.asarray([self.tasks.get(name, 0.0) for name in sorted(CONDITIONS)], jnp.float32)
    return OfficialDraws(
      jax.random.categorical(condition_key, jnp.log(weights)),
      jax.random.randint(level_key, (), 0, TRAIN_TIMESTEPS),
      jax.random.normal(noise_key, shape),
    )

  def loss(
    self, params: Params, batch: Batch, clean: Float[Array, "B F h w C"], draws: OfficialDraws
  ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss and its parts for given draws; `clean` are the latents of the batch's video.

    A clip that is shorter than the batch, which the reference does not have, counts with its own frames.
    """
    schedule, names = self.schedule(clean.shape), sorted(CONDITIONS)
    sigma = jnp.asarray(schedule.sigmas)[draws.level]
    observed = jnp.asarray([CONDITIONS[name][0] for name in names])[draws.condition]
    frame, length = jnp.arange(clean.shape[1]), num_latents(self.codec, batch["length"])
    noisy = (1 - sigma) * clean + sigma * draws.noise
    latents = jnp.where((frame < observed)[:, None, None, None], clean, noisy)
    everywhere = functools.partial(jnp.broadcast_to, shape=clean.shape[:1])
    velocity = self._apply(
      params,
      latents,
      everywhere(sigma * TRAIN_TIMESTEPS),
      self._context(params, batch["tokens"], draws.condition),
      num_observed=everywhere(observed),
      length=length,
    )
    predicted = (frame >= observed) & (frame < length[:, None])
    square = jnp.mean(jnp.square(velocity - (draws.noise - clean)), axis=(2, 3, 4))
    mean = jnp.sum(square * predicted) / jnp.maximum(jnp.sum(predicted), 1)
    loss = mean * jnp.asarray(schedule.weights, jnp.float32)[draws.level]
    return loss, {"loss": loss, "loss_video": mean}

  def _context(self, params: Params, tokens: Any, condition: Int[Array, ""]) -> Context:
    """The text's context, an empty text's, or zeros under a mask that hides them all."""
    kinds = [CONDITIONS[name][1] for name in sorted(CONDITIONS)]
    text, nothing = (jnp.asarray([kind == one for one in kinds])[condition] for kind in ("text", "nothing"))
    chosen = jax.tree.map(lambda some, none: jnp.where(text, some, none), tokens, self.encoder.without_text(tokens))
    context = self.encoder.encode(params.get("bridge", {}), chosen)
    mask = jnp.ones(context.tokens.shape[:2], bool) if context.mask is None else context.mask
    return Context(jnp.where(nothing, 0, context.tokens), mask & ~nothing)

  def _apply(self, params: Params, *args: Any, **kwargs: Any) -> Any:
    variables = {"params": params}
    if lora.COLLECTION in params:
      variables[lora.COLLECTION] = lora.scaled(params[lora.COLLECTION], self.adapter_scale)
    with lora.reading():
      return self.model.apply(variables, *args, **kwargs, method="denoise_video")
