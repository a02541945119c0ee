"""c06: the denoising loops and the whole call."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from kairos_jax.flow import sampler
from kairos_jax.flow.schedule import ACTION_SHIFT, Schedule, flow_schedule, video_shift
from kairos_jax.interop.golden import GoldenCase
from kairos_jax.interop.parity.case import Compared, context_of, frames_last, frames_second, model_of
from kairos_jax.interop.parity.schedules import timesteps
from kairos_jax.interop.parity.towers import joint_once
from kairos_jax.model import WorldActionConfig, WorldActionModel
from kairos_jax.model.memory import layer_name


def model_config(case: GoldenCase) -> Compared:
  """c06: the joint pass, the loops, the whole call; told apart by what the case holds."""
  t = case.tensors
  if case.name.endswith("joint_once"):
    yield from joint_once(case)
  elif case.name.endswith("full_call"):
    yield from _full_call(case)
  elif "noise_action" in t and "latents_init" in t:
    yield from _joint_loop(case)
  elif "noise_action" in t:
    yield from _action_loop(case)
  else:
    yield from _video_loop(case)


def loop_tolerance(case: GoldenCase) -> float:
  """Guidance multiplies the difference of two passes, and their errors with it."""
  guided = case.meta.get("cfg_scale", 1.0) != 1.0 or case.name.endswith("full_call")
  return 1e-3 if guided else 1e-4


def _video_loop(case: GoldenCase) -> Compared:
  t, meta = case.tensors, case.meta
  model, params, config = model_of(case, meta["video_ctor_overrides"])
  schedule = video_schedule(t["latents_init"].shape[-3:], config, meta["steps"])
  yield timesteps("timesteps", schedule, t)
  latents, trace = sampled(model, params, t["latents_init"], schedule, t, meta["cfg_scale"])
  yield "latents_final", frames_second(latents), t["latents_final"]
  names = {"sample": "sample", "velocity": "model_output_cfg", "result": "prev_sample_before_reimpose"}
  yield from _steps(trace._asdict(), names, t, frames_second)


def sampled(
  model: WorldActionModel, params: Any, noise: np.ndarray, schedule: Schedule, t: dict[str, np.ndarray], guidance: float
) -> tuple[Any, Any]:
  """The video that a case samples from the noise under its contexts, and every step of it."""
  return jax.jit(
    lambda noise: sampler.sample_video(
      model,
      params,
      noise,
      schedule,
      context_of(t, "context"),
      observed=observed_of(t),
      guidance=guidance,
      negative=context_of(t, "negative_context") if "negative_context" in t else None,
      trace=True,
    )
  )(frames_last(noise))


def _joint_loop(case: GoldenCase) -> Compared:
  t, meta = case.tensors, case.meta
  model, params, config = model_of(case, meta["video_ctor_overrides"])
  schedule = video_schedule(t["latents_init"].shape[-3:], config, meta["steps"])
  action_schedule = flow_schedule(meta["steps"], ACTION_SHIFT)
  yield timesteps("timesteps", schedule, t)
  yield timesteps("timesteps_action", action_schedule, t)
  (latents, actions), trace = jax.jit(
    lambda noise, action_noise: sampler.sample_joint(
      model,
      params,
      noise,
      action_noise,
      schedule,
      action_schedule,
      context_of(t, "context"),
      observed=observed_of(t),
      guidance=meta["cfg_scale"],
      negative=context_of(t, "negative_context"),
      trace=True,
    )
  )(frames_last(t["latents_init"]), t["noise_action"])
  yield "latents_final", frames_second(latents), t["latents_final"]
  yield "action", actions, t["action"]
  for index, part, layout in ((0, "video", frames_second), (1, "action", np.asarray)):
    names = {"velocity": f"{part}_model_output", "result": f"{part}_prev_sample"}
    steps = {"velocity": trace.velocity[index], "result": trace.result[index]}
    yield from _steps(steps, names, t, layout)


def _action_loop(case: GoldenCase) -> Compared:
  t, meta = case.tensors, case.meta
  model, params, config = model_of(case, meta["video_ctor_overrides"])
  context = context_of(t, "context")
  schedule = flow_schedule(meta["steps"], ACTION_SHIFT)
  yield timesteps("timesteps", schedule, t)
  memory = jax.jit(lambda z: model.apply({"params": params}, None, z, context, method="extend"))(observed_of(t))
  size = len(config.video.group)
  for layer in range(len(config.video.layers)):
    cache = memory.action.get(layer_name(layer % size))
    for part in "kv":
      if f"video_kv/layer{layer}/{part}" in t:
        ours = rearrange(getattr(cache, part)[layer // size], "b f l h d -> b (f l) (h d)")
        yield f"video_kv/layer{layer}/{part}", ours, t[f"video_kv/layer{layer}/{part}"]
  actions, trace = jax.jit(
    lambda noise: sampler.sample_actions(model, params, memory, noise, schedule, context, trace=True)
  )(t["noise_action"])
  yield "action", actions, t["action"]
  if "action_flash" in t:
    yield "action_flash", actions, t["action_flash"]
  names = {"sample": "sample", "velocity": "model_output", "result": "prev_sample"}
  yield from _steps(trace._asdict(), names, t, np.asarray)


def _full_call(case: GoldenCase) -> Compared:
  t, meta = case.tensors, case.meta
  model, params, config = model_of(case, meta["video_ctor_overrides"])

  def with_state(context) -> Any:
    return model.apply({"params": params}, context, t["robot_state"], method="with_state")

  context, negative = (with_state(context_of(t, key)) for key in ("context", "negative_context"))
  observed = frames_last(t["z"])
  for mode, run in meta["runs"].items():
    part = case.part(f"{mode}/")
    frames = (run["num_frames"] - 1) // 4 + 1
    schedule = video_schedule((frames, run["height"] // 8, run["width"] // 8), config, run["steps"])
    action_schedule = flow_schedule(run["steps"], ACTION_SHIFT)
    yield timesteps("timesteps", schedule, part)
    yield timesteps("timesteps_action", action_schedule, part)
    guidance = dict(guidance=run["cfg_scale"], negative=negative)
    if mode == "action":
      memory: Any = model.apply({"params": params}, None, observed, context, method="extend")
      noise_action = jnp.asarray(part["noise_action"])
      actions, _ = sampler.sample_actions(model, params, memory, noise_action, action_schedule, context)
      yield f"{mode}/out_action", actions, part["out_action"]
      continue
    noise = frames_last(part["noise"])
    if mode == "video":
      video, _ = sampler.sample_video(model, params, noise, schedule, context, observed=observed, **guidance)
    else:
      (video, actions), _ = sampler.sample_joint(
        model,
        params,
        noise,
        jnp.asarray(part["noise_action"]),
        schedule,
        action_schedule,
        context,
        observed=observed,
        **guidance,
      )
      yield f"{mode}/out_action", actions, part["out_action"]
    yield f"{mode}/out_video", frames_second(video), part["out_video"]


def video_schedule(size: tuple[int, ...], config: WorldActionConfig, steps: int) -> Schedule:
  """Of latents [frames, height, width]. The reference counts tokens as a float where no whole patches fit."""
  frames, height, width = size
  return flow_schedule(steps, video_shift(height * width / config.video.patch[1] / config.video.patch[2], frames))


def observed_of(t: dict[str, np.ndarray], key: str = "first_frame_latents") -> Any:
  """The frames that a case gives, or None."""
  return frames_last(t[key]) if key in t else None


def _steps(trace: dict[str, Any], names: dict[str, str], t: dict[str, np.ndarray], layout: Callable) -> Compared:
  for ours, theirs in names.items():
    for step, value in enumerate(np.asarray(trace[ours])):
      if f"step{step}/{theirs}" in t:
        yield f"step{step}/{theirs}", layout(value), t[f"step{step}/{theirs}"]
