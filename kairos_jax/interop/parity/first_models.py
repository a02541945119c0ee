"""c07: the first models (V1): one pass, the loop with guidance, and the four steps of the distilled one."""

import functools

import jax
import numpy as np

from kairos_jax.flow.sampler import few_steps, sample_video
from kairos_jax.flow.schedule import DMD_SHIFT, dmd_schedule
from kairos_jax.interop.golden import GoldenCase
from kairos_jax.interop.parity.case import Compared, context_of, frames_last, frames_second, model_of
from kairos_jax.interop.parity.loops import observed_of, sampled, video_schedule
from kairos_jax.interop.parity.schedules import timesteps


def first_models(case: GoldenCase) -> Compared:
  """A pass, or a loop of either kind; told apart by what the case describes."""
  if "runs" in case.meta:
    yield from _passes(case)
  elif "selected_sampling_time" in case.meta:
    yield from _distilled(case)
  else:
    yield from _guided(case)


def tolerance(case: GoldenCase) -> float:
  """A digit that rounds to its neighbor in float16 goes through all later steps of a loop."""
  return 1e-3 if "runs" not in case.meta else 1e-4


def _passes(case: GoldenCase) -> Compared:
  """Each run with q and k rounded to float16, as the models have them, and without."""
  for meta in case.meta["runs"]:
    run = f"run{meta['run']}/"
    t, batch = case.part(run), meta["batch"]
    mask = case.tensors["context_mask"][:batch] if meta["masked"] else None
    observed = int(meta["fuse_vae_embedding_in_latents"])
    context = context_of({"context": case.tensors["context"][:batch], "context_mask": mask}, "context")
    for name, rounded in (("attn_fixed", True), ("attn_fixed_rope64", False)):
      model, params, _ = model_of(case, {"float16_rope": rounded})
      out = jax.jit(functools.partial(model.apply, num_observed=observed, method="denoise_video"))(
        {"params": params}, frames_last(t["latents"]), np.broadcast_to(t["timestep"], (batch,)), context
      )
      yield f"{run}out/{name}", frames_second(out), t[f"out/{name}"]


def _guided(case: GoldenCase) -> Compared:
  t, meta = case.tensors, case.meta
  model, params, config = model_of(case, {})
  schedule = video_schedule(t["call0/latents_in"].shape[-3:], config, meta["steps"])
  yield timesteps("timesteps", schedule, t)
  latents, trace = sampled(model, params, t["call0/latents_in"], schedule, t, meta["cfg_scale"])
  yield "latents_final", frames_second(latents), t["latents_final"]
  for step in range(meta["steps"]):
    positive, negative = t[f"call{2 * step}/out"], t[f"call{2 * step + 1}/out"]
    yield f"call{2 * step}/latents_in", frames_second(trace.sample[step]), t[f"call{2 * step}/latents_in"]
    velocity = negative + meta["cfg_scale"] * (positive - negative)
    yield f"step{step} guided", frames_second(trace.velocity[step]), velocity


def _distilled(case: GoldenCase) -> Compared:
  t, meta = case.tensors, case.meta
  model, params, _ = model_of(case, {})
  schedule = dmd_schedule(meta["selected_sampling_time"], DMD_SHIFT)
  yield timesteps("timesteps", schedule, t)
  observed = observed_of(t) if "_ti2v_" in case.name else None
  latents, trace = jax.jit(
    lambda noise: sample_video(
      model, params, noise, schedule, context_of(t, "context"), observed=observed, integrate=few_steps, trace=True
    )
  )(frames_last(t["noise_init"]))
  yield "latents_final", frames_second(latents), t["latents_final"]
  for step in range(len(schedule.sigmas)):
    yield f"step{step}/latents_in", frames_second(trace.sample[step]), t[f"step{step}/latents_in"]
    yield f"step{step}/velocity", frames_second(trace.velocity[step]), t[f"step{step}/velocity"]
