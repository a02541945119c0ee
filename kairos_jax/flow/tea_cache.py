"""TeaCache: a step whose timestep changes the blocks little adds again what they added last, and skips them.

Source: TeaCache (arXiv 2411.19108) as the reference has it. There the running sum may turn negative, after which it
skips for long; here it is bounded from below.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kairos_jax.errors import KairosError
from kairos_jax.flow.sampler import Params, hold, mix, required
from kairos_jax.flow.schedule import Schedule
from kairos_jax.interfaces import Context
from kairos_jax.model import WorldActionModel
from kairos_jax.model.video_tower import Reuse, modulation

# Of the polynomial that turns the change of the modulation into that of the blocks; the highest power first.
COEFFICIENTS = {
  "Wan2.1-T2V-1.3B": (-5.21862437e04, 9.23041404e03, -5.28275948e02, 1.36987616e01, -4.99875664e-02),
  "Wan2.1-T2V-14B": (-3.03318725e05, 4.90537029e04, -2.65530556e03, 5.87365115e01, -3.15583525e-01),
  "Wan2.1-I2V-14B-480P": (2.57151496e05, -3.54229917e04, 1.40286849e03, -1.35890334e01, 1.32517977e-01),
  "Wan2.1-I2V-14B-720P": (8.10705460e03, 2.13393892e03, -3.72934672e02, 1.66203073e01, -4.17769401e-02),
}


@dataclasses.dataclass(frozen=True)
class TeaCache:
  """When to skip.

  Attributes:
    threshold: of the summed change, above which the blocks run again; 0 never skips.
    model: whose polynomial, a key of `COEFFICIENTS`.
    floor: the sum does not fall below it; the reference has none, which is minus infinity.
  """

  threshold: float
  model: str = "Wan2.1-T2V-1.3B"
  floor: float = 0.0

  def __post_init__(self):
    """KairosError for an unknown polynomial or a threshold that is no number from 0."""
    if self.model not in COEFFICIENTS:
      raise KairosError(f"tea_cache.model is {self.model!r}; allowed: {', '.join(COEFFICIENTS)}")
    if not (math.isfinite(self.threshold) and self.threshold >= 0):
      raise KairosError(f"tea_cache.threshold is {self.threshold}; allowed: finite numbers from 0")

  def check(
    self, total: Float[Array, ""], before: Float[Array, "*B"], now: Float[Array, "*B"], forced: Bool[Array, ""]
  ) -> tuple[Bool[Array, ""], Float[Array, ""]]:
    """Whether to skip, and the sum from then on; `before` and `now` are modulations, and `forced` steps run."""
    change = jnp.mean(jnp.abs(now - before)) / jnp.mean(jnp.abs(before))
    total = jnp.maximum(total + jnp.polyval(jnp.asarray(COEFFICIENTS[self.model]), change), self.floor)
    skip = (total < self.threshold) & ~forced
    return skip, jnp.where(skip, total, 0.0)


class CachedTrace(NamedTuple):
  """Every step, stacked: what the model said, what came out, whether the blocks were skipped, and the sum."""

  velocity: Array
  result: Array
  skipped: Array
  total: Array


def sample_video_cached(
  model: WorldActionModel,
  params: Params,
  noise: Float[Array, "B F H W C"],
  schedule: Schedule,
  context: Context,
  cache: TeaCache,
  *,
  observed: Float[Array, "B h H W C"] | None = None,
  guidance: float = 1.0,
  negative: Context | None = None,
  on_step: Callable[[Any], None] | None = None,
) -> tuple[Float[Array, "B F H W C"], CachedTrace]:
  """As `sampler.sample_video` of a whole clip, with steps skipped as `cache` says; the first and the last step run.

  The modulation is the same under either context, so both branches skip together, each with what it added itself.

  Raises:
    KairosError: guidance without a negative context.
  """
  config = model.config.video
  contexts = [context, required(negative, guidance)] if guidance != 1.0 else [context]
  keep, num_observed = hold(observed), 0 if observed is None else observed.shape[1]
  batch, frames, height, width, _ = noise.shape
  count = len(schedule.sigmas)
  steps = jnp.arange(count)
  levels = (steps, *map(jnp.asarray, (schedule.timesteps, schedule.sigmas, schedule.next_sigmas)))

  def step(carry: Any, level: Any) -> tuple[Any, CachedTrace]:
    sample, total, before, added = carry
    index, timestep, sigma, next_sigma = level
    of_frame = jnp.where(jnp.arange(frames) < num_observed, 0.0, timestep)[None]
    now = modulation(params["video"], config, of_frame)
    skip, total = cache.check(total, before, now, (index == 0) | (index == count - 1))
    said, kept = [], []
    for branch, last in zip(contexts, added, strict=True):
      velocity, last = model.apply(
        {"params": params},
        sample,
        jnp.broadcast_to(timestep, batch),
        branch,
        Reuse(skip, last),
        num_observed=num_observed,
        method="denoise_video_again",
      )
      said.append(velocity)
      kept.append(last)
    v = said[0] if len(said) == 1 else mix(said[0], said[1], guidance)
    result = keep(sample + v * (next_sigma - sigma))
    if on_step is not None:
      jax.debug.callback(on_step, index)
    return (result, total, now, tuple(kept)), CachedTrace(v, result, skip, total)

  tokens = config.tokens_per_frame(height, width)
  nothing = jnp.zeros((batch, frames // config.patch[0], tokens, config.dim), config.dtype)
  modulations = jnp.ones((1, frames, 6, config.dim))
  start = (keep(jnp.asarray(noise)), jnp.float32(0), modulations, (nothing,) * len(contexts))
  (latents, *_), trace = jax.lax.scan(step, start, levels)
  return latents, trace
