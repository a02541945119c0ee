"""Flow-matching objective: z = (1 - sigma) data + sigma noise, the model predicts noise - data.

Loss = L_video + lambda L_action, each a mean squared error over what is to be predicted. Source: Kairos section 3.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kairos_jax.errors import KairosError
from kairos_jax.flow.chunking import hold_prefix, in_prefix
from kairos_jax.flow.schedule import ACTION_SHIFT, TRAIN_TIMESTEPS, shifted, video_shift
from kairos_jax.interfaces import Context, ContextEncoder, VideoCodec, num_frames, num_latents
from kairos_jax.model import WorldActionModel, lora

Params = dict[str, Any]
Batch = Mapping[str, Array]

# Task -> (frames are observed, text is read, one frame only).
TASKS = {
  "t2v": (False, True, False),
  "ti2v": (True, True, False),
  "i2v": (True, False, False),
  "unconditional": (False, False, False),
  "image": (False, True, True),
}


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
  """What one stage trains.

  Attributes:
    tasks: how often each of `TASKS` is drawn.
    text_dropout: chance to hide the text of a task that reads it, for classifier-free guidance.
    min_observed, max_observed: least and most latent frames that may be observed, as far as a clip has them.
    action_horizon: length of an action chunk; 0 trains the video tower alone.
    action_weight: lambda.
    chunks_per_clip: action chunks per clip, which share the clip's one video pass: each of its own noise and, where the
      video tower's history is causal, after its own number of observed frames.
    max_delay: most actions at a chunk's begin that are given as they were executed, at noise level 0, and cost nothing:
      those that a robot executes of its chunk before while this one is computed, see `flow.chunking`.
    decide: after which of the observed frames a chunk is decided: any, or only those at which an action is labeled,
      for robots that are known to be at rest most of the time.
  """

  tasks: Mapping[str, float]
  text_dropout: float = 0.1
  min_observed: int = 1
  max_observed: int = 1
  action_horizon: int = 0
  action_weight: float = 1.0
  chunks_per_clip: int = 1
  max_delay: int = 0
  decide: Literal["any", "labeled"] = "any"

  def __post_init__(self):
    unknown = sorted(set(self.tasks) - set(TASKS))
    if unknown or not sum(self.tasks.values()) > 0:
      raise KairosError(f"tasks {dict(self.tasks)}: allowed are weights, not all 0, for {', '.join(TASKS)}")
    if self.action_horizon and any(weight and not TASKS[task][0] for task, weight in self.tasks.items()):
      raise KairosError("tasks: actions read observed frames, so only ti2v and i2v may be trained with them")
    if not 0 <= self.max_delay < max(1, self.action_horizon):
      raise KairosError(
        f"max_delay is {self.max_delay}; allowed are 0 to below the {self.action_horizon} actions of a chunk"
      )


class Draws(NamedTuple):
  """All that chance decides of one loss over B clips, and R action chunks for each of them.

  Attributes:
    num_observed: latent frames that are history.
    length: latent frames that there are.
    text: whether a clip's text is read.
    sigma, noise: of the video.
    action_num_observed: after how many latent frames a chunk is decided; None, as the next two, without actions.
    action_sigma, action_noise: of the chunks, clip-major.
    action_delay: how many actions of a chunk are given; None: none are, and the tower reads one level for all.
  """

  num_observed: Int[Array, "B"]
  length: Int[Array, "B"]
  text: Bool[Array, "B"]
  sigma: Float[Array, "B"]
  noise: Float[Array, "B F h w C"]
  action_num_observed: Int[Array, "BR"] | None = None
  action_sigma: Float[Array, "BR"] | None = None
  action_noise: Float[Array, "BR A action_dim"] | None = None
  action_delay: Int[Array, "BR"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
  """The loss of one stage: `objective(params, batch, key)`, with params {"video", "action", "bridge", "codec"}.

  Params may also have "lora", the adapters that the towers read beside their matrices, scaled by `adapter_scale`.
  """

  model: WorldActionModel
  encoder: ContextEncoder
  codec: VideoCodec
  config: ObjectiveConfig
  adapter_scale: float = 1.0

  def __call__(self, params: Params, batch: Batch, key: Array) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss and its parts.

    Args:
      batch: video uint8 [B T H W 3] or its latents [B F h w C], length [B] (frames), tokens (of the encoder, leading
        axis B), and for actions state [B T S] and action [B N A] with their masks, normalized, and the rates fps and
        action_hz [B], Hz. With `max_delay` also executed [B N A], what the robot did instead of the actions.
    """
    clean = latents_of(self.codec, params, batch)
    return self.loss(params, batch, clean, self.draw(batch, clean.shape, key))

  def at_levels(
    self, params: Params, batch: Batch, key: Array, levels: Float[Array, "L"]
  ) -> dict[str, Float[Array, "L"]]:
    """The parts of the loss where all noise levels are one, for each of L levels; the rest of chance is the key's."""
    clean = latents_of(self.codec, params, batch)
    draws = self.draw(batch, clean.shape, key)

    def at(level: Float[Array, ""]) -> dict[str, Float[Array, ""]]:
      sigmas = {name: getattr(draws, name) for name in ("sigma", "action_sigma")}
      leveled = {name: x if x is None else jnp.full_like(x, level) for name, x in sigmas.items()}
      return self.loss(params, batch, clean, draws._replace(**leveled))[1]

    return jax.lax.map(at, jnp.asarray(levels))

  def draw(self, batch: Batch, shape: Sequence[int], key: Array) -> Draws:
    """Draws tasks, observed frames, noise levels and noise for latents of this shape, [B F h w C]."""
    keys = dict(zip(("task", "num_observed", "sigma", "noise", "action"), jax.random.split(key, 5), strict=True))
    observed, text, length = self._draw_tasks(keys["task"], num_latents(self.codec, batch["length"]))
    if not self.config.action_horizon:  # A task that observes frames is, on a single one, that task without them.
      observed &= length > 1
    most = jnp.clip(length - 1, 1, self.config.max_observed)
    least = jnp.minimum(self.config.min_observed, most)
    num_observed = jnp.where(observed, jax.random.randint(keys["num_observed"], length.shape, least, most + 1), 0)
    tokens_per_frame = self.model.config.video.tokens_per_frame(*shape[2:4])
    sigma = jax.random.uniform(keys["sigma"], length.shape)
    sigma = shifted(sigma, video_shift(tokens_per_frame, 1) * jnp.sqrt(length))
    draws = Draws(num_observed, length, text, sigma, jax.random.normal(keys["noise"], shape))
    if not self.config.action_horizon:
      return draws

    decided_key, sigma_key, noise_key = jax.random.split(keys["action"], 3)
    action_num_observed = jnp.repeat(num_observed, self.config.chunks_per_clip)
    if self.model.config.video.causal_history:
      if self.config.decide == "labeled":
        action_num_observed = self._labeled_moments(batch, decided_key, action_num_observed, shape[1])
      else:
        action_num_observed = jax.random.randint(decided_key, action_num_observed.shape, 1, action_num_observed + 1)
    chunks = (len(action_num_observed), self.config.action_horizon, batch["action"].shape[-1])
    delay = None
    if self.config.max_delay:
      delay = jax.random.randint(jax.random.fold_in(keys["action"], 0), chunks[:1], 0, self.config.max_delay + 1)
    return draws._replace(
      action_delay=delay,
      action_num_observed=action_num_observed,
      action_sigma=shifted(jax.random.uniform(sigma_key, chunks[:1]), ACTION_SHIFT),
      action_noise=jax.random.normal(noise_key, chunks),
    )

  def loss(
    self, params: Params, batch: Batch, clean: Float[Array, "B F h w C"], draws: Draws
  ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss and its parts for given draws; `clean` are the latents of the batch's video."""
    context = self.context(params, batch, draws)
    frame = jnp.arange(clean.shape[1])
    is_history = (frame < draws.num_observed[:, None])[..., None, None, None]
    latents = jnp.where(is_history, clean, _mix(clean, draws.noise, draws.sigma))
    inputs = (latents, draws.sigma * TRAIN_TIMESTEPS)
    span = dict(num_observed=draws.num_observed, length=draws.length)
    predicted = (frame >= draws.num_observed[:, None]) & (frame < draws.length[:, None])

    if draws.action_sigma is None:
      velocity = self._apply(params, *inputs, context, **span, method="denoise_video")
      loss = _masked_mean(velocity - (draws.noise - clean), predicted)
      return loss, {"loss": loss, "loss_video": loss}

    actions, mask, state, state_mask = self.decisions(batch, draws.action_num_observed)
    has = jnp.repeat(batch["action_mask"].any(axis=1, keepdims=True), self.config.chunks_per_clip, axis=0)
    # Numbers that a robot lacks are 0 at every level, here and in the sampler: none of its own depends on them.
    noisy = jnp.where(has, _mix(actions, draws.action_noise, draws.action_sigma), 0.0)
    action_timestep = draws.action_sigma * TRAIN_TIMESTEPS
    if draws.action_delay is not None:
      # Not the labels, which say where the goal is: a policy's chunk begins with what it does itself, right or wrong.
      executed, _ = self._chunks(batch, "executed", draws.action_num_observed)
      given, timesteps = hold_prefix(executed, draws.action_delay)
      noisy, action_timestep = given(noisy), timesteps(action_timestep[:, None])
      mask = mask & ~in_prefix(actions.shape[1], draws.action_delay)[..., None]
    contexts = jax.tree.map(lambda x: jnp.repeat(x, self.config.chunks_per_clip, axis=0), context)
    velocity, action_velocity = self._apply(
      params,
      *inputs,
      noisy,
      action_timestep,
      context,
      self._apply(params, contexts, state, state_mask, method="with_state"),
      action_num_observed=draws.action_num_observed,
      **span,
      method="denoise_joint",
    )
    video_loss = _masked_mean(velocity - (draws.noise - clean), predicted)
    action_loss = _masked_mean(action_velocity - (draws.action_noise - actions), mask)
    loss = video_loss + self.config.action_weight * action_loss
    return loss, {"loss": loss, "loss_video": video_loss, "loss_action": action_loss}

  def context(self, params: Params, batch: Batch, draws: Draws) -> Context:
    """What the towers read of the batch's texts, as far as they are read."""
    return self.encoder.encode(params.get("bridge", {}), self._drop_text(batch["tokens"], draws.text))

  def _drop_text(self, tokens: Any, kept: Bool[Array, "B"]) -> Any:
    """The tokens, those of an empty text where a clip's text is not kept."""

    def choose(some, none):
      return jnp.where(kept.reshape(-1, *[1] * (some.ndim - 1)), some, none)

    return jax.tree.map(choose, tokens, self.encoder.without_text(tokens))

  def _apply(self, params: Params, *args: Any, **kwargs: Any) -> Any:
    if lora.COLLECTION not in params:
      return self.model.apply({"params": params}, *args, **kwargs)
    adapters = lora.scaled(params[lora.COLLECTION], self.adapter_scale)
    with lora.reading():
      return self.model.apply({"params": params, lora.COLLECTION: adapters}, *args, **kwargs)

  def _draw_tasks(
    self, key: Array, length: Int[Array, "B"]
  ) -> tuple[Bool[Array, "B"], Bool[Array, "B"], Int[Array, "B"]]:
    """One task a clip: whether frames are observed, whether text is read, and how many latent frames there are."""
    task_key, drop_key = jax.random.split(key)
    names = sorted(self.config.tasks)
    weights = jnp.asarray([self.config.tasks[name] for name in names], jnp.float32)
    task = jax.random.categorical(task_key, jnp.log(weights), shape=length.shape)
    observed, text, single = (jnp.asarray(column)[task] for column in zip(*(TASKS[n] for n in names), strict=True))
    kept = jax.random.uniform(drop_key, length.shape) >= self.config.text_dropout
    return observed, text & kept, jnp.where(single, 1, length)

  def _labeled_moments(
    self, batch: Batch, key: Array, num_observed: Int[Array, "BR"], latents: int
  ) -> Int[Array, "BR"]:
    """One of 1 .. num_observed, all alike, after whose last frame an action is labeled; num_observed if none is."""
    rows = self._rows(batch, num_observed)
    moments = jnp.arange(1, latents + 1)
    first, _ = self._first_action(moments[None], batch["fps"][:, None], batch["action_hz"][:, None])
    first = jnp.minimum(first, batch["action"].shape[1] - 1)
    labeled = jnp.take_along_axis(batch["action_mask"].any(axis=2), first, axis=1)[rows]
    allowed = labeled & (moments <= num_observed[:, None])
    drawn = jnp.argmax(jnp.where(allowed, jax.random.uniform(key, allowed.shape), -1.0), axis=1) + 1
    return jnp.where(allowed.any(axis=1), drawn, num_observed)

  def _first_action(self, num_observed: Array, fps: Array, action_hz: Array) -> tuple[Array, Array]:
    """The first action after so many observed latent frames, and the last observed frame; both counted from 0."""
    now = num_frames(self.codec, num_observed) - 1
    # Actions have a clock of their own: the first is the one in force when that frame is seen.
    return jnp.round(now / fps * action_hz).astype(jnp.int32), now

  def decisions(self, batch: Batch, num_observed: Int[Array, "BR"]):
    """The action chunks that follow so many observed frames, and the robot's states at the last of them."""
    actions, mask = self._chunks(batch, "action", num_observed)
    rows = self._rows(batch, num_observed)
    _, now = self._first_action(num_observed, batch["fps"][rows], batch["action_hz"][rows])
    state, state_mask = (
      jnp.take_along_axis(batch[name][rows], now[:, None, None], axis=1)[:, 0] for name in ("state", "state_mask")
    )
    return actions, mask, state, state_mask

  def _chunks(
    self, batch: Batch, name: str, num_observed: Int[Array, "BR"]
  ) -> tuple[Float[Array, "BR A action_dim"], Bool[Array, "BR A action_dim"]]:
    """What "action" or "executed" holds from each decision on, and which of it is known; the rest is 0."""
    rows = self._rows(batch, num_observed)
    begin, _ = self._first_action(num_observed, batch["fps"][rows], batch["action_hz"][rows])
    index = begin[:, None] + jnp.arange(self.config.action_horizon)
    inside = (index < batch[name].shape[1])[..., None]
    index = jnp.minimum(index, batch[name].shape[1] - 1)[..., None]
    mask = jnp.take_along_axis(batch["action_mask"][rows], index, axis=1) & inside
    return jnp.where(mask, jnp.take_along_axis(batch[name][rows], index, axis=1), 0.0), mask

  def _rows(self, batch: Batch, num_observed: Int[Array, "BR"]) -> Int[Array, "BR"]:
    """The clip of each chunk."""
    clips = batch["action"].shape[0]
    return jnp.repeat(jnp.arange(clips), num_observed.shape[0] // clips)


def latents_of(codec: VideoCodec, params: Params, batch: Batch) -> Float[Array, "B F h w C"]:
  """The latents of a batch: those that were computed before, where it has them and no video."""
  if "latents" in batch:
    return batch["latents"].astype(jnp.float32)
  return codec.encode(params["codec"], batch["video"])[0]


def _mix(clean: Array, noise: Array, sigma: Float[Array, "B"]) -> Array:
  sigma = jnp.reshape(sigma, (-1,) + (1,) * (clean.ndim - 1))
  return (1 - sigma) * clean + sigma * noise


def _masked_mean(error: Float[Array, "B S ..."], mask: Bool[Array, "B S ..."]) -> Float[Array, ""]:
  """Mean square over what the mask, of as many leading axes as it has, keeps; 0 if it keeps nothing."""
  square = jnp.mean(jnp.square(error), axis=tuple(range(mask.ndim, error.ndim)))
  return jnp.sum(square * mask) / jnp.maximum(jnp.sum(mask), 1)
