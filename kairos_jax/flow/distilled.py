"""The few steps of a distilled student: each predicts the data, which is then noised again to the next level.

Source: the reference's DMD pipeline; with a seed its fresh noise is the noise that it began with.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kairos_jax.flow.sampler import Params, Trace, hold, video_velocity
from kairos_jax.flow.schedule import Schedule
from kairos_jax.interfaces import Context
from kairos_jax.model import WorldActionModel


def sample_distilled(
  model: WorldActionModel,
  params: Params,
  noise: Float[Array, "B F H W C"],
  schedule: Schedule,
  context: Context,
  *,
  observed: Float[Array, "B h H W C"] | None = None,
  trace: bool = False,
  on_step: Callable[[Any], None] | None = None,
) -> tuple[Float[Array, "B F H W C"], Trace | None]:
  """Text to video, or with `observed` (the first frames among F) the video's continuation; without guidance.

  As in the reference, the observed frames are put back before every step and not after the last.

  Args:
    schedule: from `dmd_schedule`.
    on_step: hears the index of every step that is done, on the host.
  """
  velocity, keep = video_velocity(model, params, observed), hold(observed)
  return few_steps(
    lambda sample, timestep: velocity(sample, timestep, context, None),
    jnp.asarray(noise),
    schedule,
    keep,
    trace=trace,
    on_step=on_step,
  )


def few_steps(
  velocity: Callable[[Array, Array], Array],
  noise: Float[Array, "B *S"],
  schedule: Schedule,
  constrain: Callable[[Array], Array] = lambda sample: sample,
  *,
  trace: bool = False,
  on_step: Callable[[Any], None] | None = None,
) -> tuple[Float[Array, "B *S"], Trace | None]:
  """Predicts the data and noises them to the next level with the noise that it began with, level after level.

  Args:
    velocity: (sample, timestep) -> velocity.
    constrain: applied to the sample before every step, and not after the last.
    trace, on_step: see `sample_distilled`.
  """
  levels = (jnp.arange(len(schedule.sigmas)), schedule.timesteps, schedule.sigmas, schedule.next_sigmas)

  def step(sample: Array, level: Any) -> tuple[Array, Trace | None]:
    index, timestep, sigma, next_sigma = level
    sample = constrain(sample)
    v = velocity(sample, timestep)
    data = sample - sigma * v
    result = (1 - next_sigma) * data + next_sigma * noise
    if on_step is not None:
      jax.debug.callback(on_step, index)
    return result, Trace(sample, v, result) if trace else None

  return jax.lax.scan(step, noise, tuple(map(jnp.asarray, levels)))
