"""c10: when TeaCache skips, and a loop that skips. The sum is not bounded here, for the reference's is not."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from kairos_jax.flow.schedule import flow_schedule, video_shift
from kairos_jax.flow.tea_cache import TeaCache, sample_video_cached
from kairos_jax.interop.golden import GoldenCase
from kairos_jax.interop.parity.case import Compared, context_of, frames_last, frames_second, model_of
from kairos_jax.interop.parity.loops import observed_of
from kairos_jax.interop.parity.schedules import timesteps


def tea_caches(case: GoldenCase) -> Compared:
  """Decisions alone, or a loop."""
  yield from _decisions(case) if "runs" in case.meta else _loop(case)


def tolerance(case: GoldenCase) -> float:
  """Of a loop with velocities that are not guided, and of sums on the scale of one; decisions are true or false."""
  return 1e-3


def _decisions(case: GoldenCase) -> Compared:
  for run in case.meta["runs"]:
    cache = TeaCache(run["rel_l1_thresh"], run["model_id"], floor=-math.inf)
    modulations = jnp.asarray(case.tensors[f"run{run['run']}/t_mod"])
    number = jnp.arange(len(modulations)) % run["num_inference_steps"]  # after the last step it begins again
    forced = (number == 0) | (number == run["num_inference_steps"] - 1)

    def step(carry, inputs, cache=cache):
      total, before = carry
      now, forced = inputs
      skip, total = cache.check(total, before, now, forced)
      return (total, now), (skip, total)

    _, (skipped, totals) = jax.lax.scan(step, (jnp.float32(0), modulations[0]), (modulations, forced))
    yield f"run{run['run']}/use_cache", skipped, run["use_cache"]
    yield from _sums(f"run{run['run']}/", totals, run["accumulated_after"])


def _loop(case: GoldenCase) -> Compared:
  t, meta = case.tensors, case.meta
  model, params, _ = model_of(case, {})
  schedule = flow_schedule(meta["steps"], video_shift(meta["dynamic_shift_len"], meta["num_frames"]))
  yield timesteps("timesteps", schedule, t)
  cache = TeaCache(meta["rel_l1_thresh"], meta["model_id"], floor=-math.inf)
  _, trace = jax.jit(
    lambda noise: sample_video_cached(
      model, params, noise, schedule, context_of(t, "context"), cache, observed=observed_of(t)
    )
  )(frames_last(t["latents_init"]))
  yield "skipped", trace.skipped, meta["skipped"]
  yield from _sums("", trace.total, meta["accumulated_after"])
  for step in range(meta["steps"]):
    yield f"step{step}/out", frames_second(trace.velocity[step]), t[f"step{step}/out"]
    yield f"step{step}/latents", frames_second(trace.result[step]), t[f"step{step}/latents"]


def _sums(name: str, ours: jax.Array, theirs: list[float]) -> Compared:
  """On the scale of the sum: it is a polynomial of large coefficients, whose float32 digits are relative."""
  want = np.asarray(theirs)
  scale = 1 + np.abs(want)
  yield f"{name}accumulated_after, relative", np.asarray(ours) / scale, want / scale
