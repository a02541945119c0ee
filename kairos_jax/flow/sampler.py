"""Sampling of the learned velocity: videos, actions, both. One compiled scan over noise levels.

A model integrates its velocity; a distilled student predicts the data in each of its few steps, and noises them again.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kairos_jax.errors import KairosError
from kairos_jax.flow.chunking import guided_by, hold_prefix
from kairos_jax.flow.schedule import Schedule
from kairos_jax.interfaces import Context
from kairos_jax.model import Memory, WorldActionModel
from pallas_kernels import layout

Params = dict[str, Any]


class Trace(NamedTuple):
  """Every step of a sampler, stacked: what it saw, what the model said, what came out (before constraints)."""

  sample: Any
  velocity: Any
  result: Any


def euler(
  velocity: Callable[[Any, Any], Any],
  sample: Any,
  schedules: Any,
  constrain: Callable[[Any], Any] = lambda sample: sample,
  *,
  trace: bool = False,
  on_step: Callable[[Any], None] | None = None,
) -> tuple[Any, Trace | None]:
  """Integrates d sample / d sigma = velocity from the first level to the last.

  Args:
    velocity: (sample, timestep) -> velocity; all three are pytrees of the structure of `sample`.
    schedules: one `Schedule` per leaf of `sample`, of the same number of steps.
    constrain: applied to the sample before the first step and after every step, the last included.
    trace: also return what happened at every step.
    on_step: hears the level of every step that is done, on the host.
  """
  levels = jax.tree.map(
    lambda s: tuple(jnp.asarray(x) for x in (s.timesteps, s.sigmas, s.next_sigmas)),
    schedules,
    is_leaf=lambda s: isinstance(s, Schedule),
  )
  outer = jax.tree.structure(sample)
  levels = jax.tree.transpose(outer, jax.tree.structure((0, 0, 0)), levels)

  def step(sample, level):
    timestep, sigma, next_sigma = level
    v = velocity(sample, timestep)
    result = jax.tree.map(lambda x, v, a, b: x + v * (b - a), sample, v, sigma, next_sigma)
    if on_step is not None:
      jax.debug.callback(on_step, jax.tree.leaves(sigma)[0])
    return constrain(result), Trace(sample, v, result) if trace else None

  return jax.lax.scan(step, constrain(sample), levels)


def few_steps(
  velocity: Callable[[Any, Any], Any],
  sample: Any,
  schedules: Any,
  constrain: Callable[[Any], Any] = lambda sample: sample,
  *,
  trace: bool = False,
  on_step: Callable[[Any], None] | None = None,
) -> tuple[Any, Trace | None]:
  """The steps of a distilled student: the data are predicted and noised to the next level, with the first noise.

  Source: the reference's DMD pipeline; with a seed its fresh noise is the noise that it began with.

  Args:
    velocity: (sample, timestep) -> velocity.
    sample: noise, one array.
    schedules: a `Schedule`, from `dmd_schedule`.
    constrain: applied to the sample before every step and, as in the reference, not after the last.
    trace, on_step: see `euler`.
  """
  noise = jnp.asarray(sample)

  def step(sample: Array, level: Any) -> tuple[Array, Trace | None]:
    timestep, sigma, next_sigma = level
    sample = constrain(sample)
    v = velocity(sample, timestep)
    data = sample - sigma * v
    result = (1 - next_sigma) * data + next_sigma * noise
    if on_step is not None:
      jax.debug.callback(on_step, sigma)
    return result, Trace(sample, v, result) if trace else None

  levels = (schedules.timesteps, schedules.sigmas, schedules.next_sigmas)
  return jax.lax.scan(step, noise, tuple(map(jnp.asarray, levels)))


def guided(
  velocity: Callable[[Array, Array, Context, Memory | None], Array],
  branches: Sequence[tuple[Context, Memory | None]],
  guidance: float,
) -> Callable[[Array, Array], Array]:
  """Classifier-free guidance: negative + guidance (positive - negative); one branch alone is taken as it is.

  On a mesh with an axis for it both branches are computed at once, as one batch that is cut between them.
  """
  at_once = len(branches) > 1 and branches[0][1] is None and layout.devices_along(layout.GUIDANCE) > 1

  def combined(latents, timestep):
    if at_once:
      both = _one_batch([context for context, _ in branches])
      velocities = velocity(jnp.concatenate([latents, latents]), timestep, both, None)
      positive, negative = jnp.split(velocities, 2)
      return mix(positive, negative, guidance)
    first, *others = (velocity(latents, timestep, context, memory) for context, memory in branches)
    return mix(first, others[0], guidance) if others else first

  return combined


def _one_batch(contexts: Sequence[Context]) -> Context:
  """The contexts one after the other; what the shorter ones lack is masked."""
  longest = max(context.tokens.shape[1] for context in contexts)

  def padded(context: Context) -> tuple[Array, Array]:
    lacking = ((0, 0), (0, longest - context.tokens.shape[1]))
    mask = jnp.ones(context.tokens.shape[:2], bool) if context.mask is None else context.mask
    return jnp.pad(context.tokens, (*lacking, (0, 0))), jnp.pad(mask, lacking)

  return Context(*map(jnp.concatenate, zip(*map(padded, contexts), strict=True)))


def mix(positive: Array, negative: Array, guidance: float) -> Array:
  """The velocity with guidance."""
  return negative + guidance * (positive - negative)


def required(negative: Context | None, guidance: float) -> Context:
  """The negative context, which guidance reads. Raises KairosError if there is none."""
  if negative is None:
    raise KairosError(f"guidance is {guidance}, which needs a negative context; without one it must be 1")
  return negative


def hold(observed: Float[Array, "B h H W C"] | None) -> Callable[[Array], Array]:
  """Puts the observed frames back in front."""
  if observed is None:
    return lambda latents: latents
  return lambda latents: jnp.asarray(latents).at[:, : observed.shape[1]].set(observed)


def mask_actions(mask: Bool[Array, "B action_dim"] | None) -> Callable[[Array], Array]:
  """Sets to 0 what a robot lacks of the model's action dimensions, as training does: nothing then depends on it."""
  if mask is None:
    return lambda actions: actions
  return lambda actions: jnp.where(mask[:, None], actions, 0.0)


def sample_video(
  model: WorldActionModel,
  params: Params,
  noise: Float[Array, "B F H W C"],
  schedule: Schedule,
  context: Context,
  *,
  observed: Float[Array, "B h H W C"] | None = None,
  memory: Memory | None = None,
  guidance: float = 1.0,
  negative: Context | None = None,
  negative_memory: Memory | None = None,
  integrate: Callable[..., tuple[Any, Trace | None]] = euler,
  trace: bool = False,
  on_step: Callable[[Any], None] | None = None,
) -> tuple[Float[Array, "B F H W C"], Trace | None]:
  """Text to video; with `observed` (the first frames among F) or `memory` (frames before F) the video's continuation.

  Args:
    guidance: 1 leaves the negative context unread.
    negative_memory: the same history as `memory`, read under the negative context.
    integrate: `euler`, or `few_steps` of a student.
    on_step: see `euler`.

  Raises:
    KairosError: guidance without a negative context, or with a memory of one context alone.
  """
  branches = [(context, memory)]
  if guidance != 1.0:
    if (memory is None) != (negative_memory is None):
      missing = "memory" if memory is None else "negative_memory"
      raise KairosError(
        f"guidance is {guidance} and {missing} is None; with history both contexts need one, or neither"
      )
    branches.append((required(negative, guidance), negative_memory))
  velocity = guided(video_velocity(model, params, observed), branches, guidance)
  return integrate(velocity, noise, schedule, hold(observed), trace=trace, on_step=on_step)


def sample_joint(
  model: WorldActionModel,
  params: Params,
  noise: Float[Array, "B F H W C"],
  action_noise: Float[Array, "B A action_dim"],
  schedule: Schedule,
  action_schedule: Schedule,
  context: Context,
  *,
  action_context: Context | None = None,
  action_mask: Bool[Array, "B action_dim"] | None = None,
  observed: Float[Array, "B h H W C"],
  guidance: float = 1.0,
  negative: Context | None = None,
  trace: bool = False,
) -> tuple[tuple[Float[Array, "B F H W C"], Float[Array, "B A action_dim"]], Trace | None]:
  """Video and actions denoised together; guidance on video alone.

  Args:
    action_mask: the action dimensions that each robot has; None is all of them.

  Raises:
    KairosError: guidance without a negative context.
  """
  without = required(negative, guidance) if guidance != 1.0 else None
  num_observed = observed.shape[1]

  def velocity(sample, timestep):
    latents, actions = sample
    t, t_action = (jnp.broadcast_to(t, latents.shape[:1]) for t in timestep)
    video, action = model.apply(
      {"params": params},
      latents,
      t,
      actions,
      t_action,
      context,
      action_context,
      num_observed=num_observed,
      method="denoise_joint",
    )
    if without is not None:
      video = mix(video, video_velocity(model, params, observed)(latents, timestep[0], without, None), guidance)
    return video, action

  keep, own = hold(observed), mask_actions(action_mask)
  constrain = lambda sample: (keep(sample[0]), own(sample[1]))  # noqa: E731
  return euler(velocity, (noise, action_noise), (schedule, action_schedule), constrain, trace=trace)


def sample_actions(
  model: WorldActionModel,
  params: Params,
  memory: Memory,
  noise: Float[Array, "B A action_dim"],
  schedule: Schedule,
  context: Context,
  *,
  action_mask: Bool[Array, "B action_dim"] | None = None,
  previous: Float[Array, "B A action_dim"] | None = None,
  previous_weights: Float[Array, "B A"] | None = None,
  prefix: Int[Array, "B"] | None = None,
  integrate: Callable[..., tuple[Any, Trace | None]] = euler,
  trace: bool = False,
  on_step: Callable[[Any], None] | None = None,
) -> tuple[Float[Array, "B A action_dim"], Trace | None]:
  """Actions alone, from the memory: no video is denoised.

  Args:
    action_mask: as in `sample_joint`.
    previous: what is left of the chunk before, which this one shall continue; see `chunking`.
    previous_weights: guides the chunk to it by so much.
    prefix: makes this many of its actions, bit for bit, the chunk's first ones; for towers that were trained so.
    integrate: `euler`, or `few_steps` of a student.
    on_step: see `euler`.
  """

  def velocity(actions, timestep):
    t = jnp.broadcast_to(timestep, actions.shape[: jnp.ndim(timestep) or 1])
    return model.apply({"params": params}, memory, actions, t, context, method="denoise_actions")

  own = constrain = mask_actions(action_mask)
  denoise = velocity
  if prefix is not None:
    keep, timesteps = hold_prefix(previous, prefix)
    constrain = lambda actions: own(keep(actions))  # noqa: E731
    denoise = lambda actions, timestep: velocity(actions, timesteps(timestep))  # noqa: E731
  elif previous is not None:
    denoise = guided_by(velocity, previous, previous_weights, len(schedule.sigmas))
  actions, steps = integrate(denoise, noise, schedule, constrain, trace=trace, on_step=on_step)
  return constrain(actions), steps


def video_velocity(
  model: WorldActionModel, params: Params, observed: Array | None
) -> Callable[[Array, Array, Context, Memory | None], Array]:
  """(latents, timestep, context, memory) -> velocity, the first frames being observed."""
  num_observed = 0 if observed is None else observed.shape[1]

  def velocity(latents, timestep, context, memory):
    t = jnp.broadcast_to(timestep, latents.shape[:1])
    return model.apply(
      {"params": params}, latents, t, context, num_observed=num_observed, memory=memory, method="denoise_video"
    )

  return velocity
