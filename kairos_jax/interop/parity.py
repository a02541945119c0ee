"""Runs golden cases and holds every tensor against the reference's.

A case is found by the first part of its name (c05_video_tower -> c05); each runner yields (tensor, ours, theirs).
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from kairos_jax.errors import KairosError
from kairos_jax.flow import sampler
from kairos_jax.flow.schedule import ACTION_SHIFT, Schedule, dmd_schedule, flow_schedule, video_shift
from kairos_jax.interop.golden import GoldenCase
from kairos_jax.interop.reference_names import module_from_reference
from kairos_jax.model import MixtureConfig, WorldActionModel
from kairos_jax.model.gated_delta_net import DeltaState, GatedDeltaNet, l2_normalise
from kairos_jax.model.memory import layer_name
from kairos_jax.model.video_tower import Context
from pallas_kernels.gated_delta import gated_delta
from pallas_kernels.window_attention import Rule, Span, mixture_mask, window_attention

Compared = Iterator[tuple[str, Any, Any]]


class Comparison(NamedTuple):
  """One tensor held against the reference's."""

  case: str
  tensor: str
  error: float
  tolerance: float

  @property
  def passed(self) -> bool:
    return self.error <= self.tolerance  # a NaN fails


def run_case(case: GoldenCase) -> Iterator[Comparison]:
  """Runs one case.

  Raises:
    KairosError: no runner knows this kind of case.
  """
  kind = case.name.split("_")[0]
  if kind not in RUNNERS:
    raise KairosError(f"golden case {case.name}: no runner for {kind!r}; there are {', '.join(RUNNERS)}")
  runner, tolerance = RUNNERS[kind]
  if case.name.endswith("_weights"):
    runner = _weights
  for tensor, ours, theirs in runner(case):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
      raise KairosError(f"golden case {case.name}: {tensor} is {ours.shape} here and {theirs.shape} there")
    error = float(np.max(np.abs(ours - theirs), initial=0.0))
    yield Comparison(case.name, tensor, error, 0.0 if runner is _weights else tolerance(case))


def _weights(case: GoldenCase) -> Compared:
  """Conversion in and out again: bit-exact."""
  from kairos_jax.interop import golden, reference_names

  config = golden.mixture_config(case.meta, {})
  back = reference_names.to_reference(reference_names.from_reference(case.tensors, config), config)
  yield "names", sorted(back) == sorted(case.tensors), True
  for name, value in case.tensors.items():
    yield name, back[name], value


def _gated_delta_rule(case: GoldenCase) -> Compared:
  run = jax.jit(gated_delta)
  for meta in case.meta["runs"]:
    name = f"T{meta['T']}/"
    t = case.part(name)
    q, k = (l2_normalise(jnp.asarray(t[name])) for name in "qk")
    inputs = (q * q.shape[-1] ** -0.5, k, t["v"], t["g"], t["beta"])
    for suffix, state in (("noinit", None), ("init", t["initial_state"])):
      reads, final = run(*inputs, state)
      yield f"{name}o_{suffix}", reads, t[f"o_{suffix}"]
      yield f"{name}state_{suffix}", final, t[f"state_{suffix}"]
    if meta["split"]:
      at = meta["split"]
      first, middle = run(*(x[:, :at] for x in inputs), t["initial_state"])
      second, final = run(*(x[:, at:] for x in inputs), middle)
      yield f"{name}state_at_split", middle, t["state_at_split"]
      yield f"{name}o_init in two parts", np.concatenate([first, second], 1), t["o_init"]
      yield f"{name}state_init in two parts", final, t["state_init"]


def _gated_delta_net(case: GoldenCase) -> Compared:
  ctor, weights = case.meta["ctor"], case.part("weights.")
  heads = ctor["num_heads"]
  value_dim = weights["o_norm.weight"].shape[0]
  key_dim = weights["q_proj.weight"].shape[0] // heads
  net = GatedDeltaNet(ctor["hidden_size"], heads, key_dim, value_dim, ctor["norm_eps"], jnp.float32)
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 2, ctor["hidden_size"])))["params"]
  params = module_from_reference(weights, shapes)
  run = jax.jit(lambda x, state: net.apply({"params": params}, x, state))
  for meta in case.meta["runs"]:
    name = f"T{meta['T']}/"
    t = case.part(name)
    y, state = run(t["x"], None)
    yield f"{name}y", y, t["y"]
    yield from _delta_state(name, state, t)
    parts, state = [], None
    for start, stop in meta["chunks"]:
      y, state = run(t["x"][:, start:stop], state)
      parts.append(y)
    yield f"{name}y_chunked", np.concatenate(parts, 1), t["y_chunked"]
    yield from _delta_state(f"{name}chunked ", state, t)


def _delta_state(name: str, state: DeltaState, t: dict[str, np.ndarray]) -> Compared:
  if "final_recurrent_state" in t:
    yield f"{name}final_recurrent_state", state.matrix, t["final_recurrent_state"]
    for part in "qkv":
      yield f"{name}final_conv_{part}", state.tail[part].swapaxes(1, 2), t[f"final_conv_{part}"]


def _masks(case: GoldenCase) -> Compared:
  meta = case.meta
  tokens, actions = meta["video_tokens_per_frame"], meta["action_seq_len"]
  for key, want in case.tensors.items():
    found = re.fullmatch(r"f(\d+)_h(\d+)_r(\d)_a(\d)/(\w+)@(\w+)", key)
    if not found:
      raise KairosError(f"golden case {case.name}: {key!r} is no mask key")
    frames, history, restrict, all_history = (int(x) for x in found.groups()[:4])
    region, kind = found.groups()[4:]
    radius, dilation = {"FA": (None, 1), "SWA": (meta["window_size"], 1)}.get(
      kind, (meta["window_size"], meta["dilated_length"])
    )
    rule = Rule(radius, dilation, history_sees_future=not restrict, all_see_history=bool(all_history))
    mask = mixture_mask(rule, frames=frames, tokens_per_frame=tokens, actions=actions, history=min(history, frames))
    video = frames * tokens
    region_mask = {
      "video_action_mixed": mask,
      "video_only": mask[:video, :video],
      "action_only": mask[video:, video:],
      "action_with_video_cache": mask[video:],
    }[region]
    yield key, region_mask, want


def _attention(case: GoldenCase) -> Compared:
  meta = case.meta
  shape = dict(l=meta["tokens_per_frame"], h=meta["num_heads"])
  for key, want in case.tensors.items():
    frames, *rest = key.split("/")
    if rest[0] in "qkv":
      continue
    q, k, v = (rearrange(case.tensors[f"{frames}/{x}"], "b (f l) (h d) -> b f l h d", **shape) for x in "qkv")
    radius, dilation = {"SWA": (meta["window_size"], 1), "FA": (None, 1)}.get(
      rest[1], (meta["window_size"], meta["dilated_length"])
    )
    rule, span = Rule(radius, dilation, unit="token"), Span()
    if rest[0] == "flex":
      history, restrict = (int(x) for x in re.findall(r"\d+", rest[2]))
      rule, span = Rule(radius, dilation, history_sees_future=not restrict), Span(min(history, q.shape[1]))
    out = jax.jit(window_attention, static_argnames=("rule",))(q, k, v, rule=rule, span=span)
    yield key, rearrange(out, "b f l h d -> b (f l) (h d)"), want


def _model(case: GoldenCase, overrides: dict[str, Any]) -> tuple[WorldActionModel, dict[str, Any], MixtureConfig]:
  config, params = case.weights(overrides)
  return WorldActionModel(config), params, config


def _frames_last(x: np.ndarray) -> jax.Array:
  """The reference's [B C F H W] -> [B F H W C]."""
  return jnp.moveaxis(jnp.asarray(x), 1, -1)


def _frames_second(x: Any) -> np.ndarray:
  return np.moveaxis(np.asarray(x), -1, 1)


def _video_tower(case: GoldenCase) -> Compared:
  for meta in case.meta["runs"]:
    model, params, config = _model(case, meta["ctor_overrides"])
    name, batch = f"{meta['name']}/", meta["batch"]
    t = case.part(name)
    rows = slice(1, 2) if "row 1" in meta["context"] else slice(0, batch)
    mask = None if meta["context_mask"] == "None" else case.tensors["context_mask"][rows]
    context = _context({"context": case.tensors["context"][rows], "context_mask": mask}, "context")
    out, kept = jax.jit(
      lambda latents, timestep, context, model=model, params=params, history=meta["num_history_frames"]: model.apply(
        {"params": params},
        latents,
        timestep,
        context,
        history=history,
        method="denoise_video",
        mutable=["intermediates"],
      )
    )(_frames_last(t["latents"]), np.broadcast_to(t["timestep"], (batch,)), context)
    yield f"{name}out", _frames_second(out), t["out"]
    if any(key.startswith("trace/") for key in t):
      yield from _trace(name, kept["intermediates"]["video"], t, config)


def _trace(name: str, kept: dict[str, Any], t: dict[str, np.ndarray], config: MixtureConfig) -> Compared:
  """The named intermediates of one pass, where the case holds them."""
  got = {key: value[0] for key, value in kept.items() if key != "groups"}
  tokens = got["patch_tokens"].shape[2]
  ours = {
    "patch_tokens": rearrange(got["patch_tokens"], "b f l d -> b (f l) d"),
    "t": np.repeat(got["t"][:1], tokens, axis=1),
    "t_mod": np.repeat(got["t_mod"][:1], tokens, axis=1),
    "context_emb": got["context_emb"],
    "freqs_cos": rearrange(got["rope"][0], "f l d -> (f l) d"),
    "freqs_sin": rearrange(got["rope"][1], "f l d -> (f l) d"),
  }
  size = len(config.video.group)
  for layer in range(len(config.video.layers)):
    out = kept["groups"][layer_name(layer % size)]["out"][0][layer // size]
    ours[f"block{layer}_out"] = rearrange(out, "b f l d -> b (f l) d")
  for key, value in ours.items():
    if f"trace/{key}" in t:
      yield f"{name}trace/{key}", value, t[f"trace/{key}"]


def _mixture(case: GoldenCase) -> Compared:
  """c06: the joint pass, the loops, the whole call; told apart by what the case holds."""
  t = case.tensors
  if case.name.endswith("joint_once"):
    yield from _joint_once(case)
  elif case.name.endswith("full_call"):
    yield from _full_call(case)
  elif "noise_action" in t and "latents_init" in t:
    yield from _joint_loop(case)
  elif "noise_action" in t:
    yield from _action_loop(case)
  else:
    yield from _video_loop(case)


def _joint_once(case: GoldenCase) -> Compared:
  for meta in case.meta["runs"]:
    model, params, _ = _model(case, meta["video_ctor_overrides"])
    name, batch = f"{meta['name']}/", meta["batch"]
    t = case.part(name)
    video, action = jax.jit(
      lambda *inputs, model=model, params=params, history=meta["num_history_frames"]: model.apply(
        {"params": params}, *inputs, history=history, method="denoise_joint"
      )
    )(
      _frames_last(t["latents"]),
      np.broadcast_to(t["timestep"], (batch,)),
      t["action"],
      np.broadcast_to(t["timestep_action"], (batch,)),
      _context(t, "context"),
    )
    yield f"{name}pred_video", _frames_second(video), t["pred_video"]
    yield f"{name}pred_action", action, t["pred_action"]


def _context(t: dict[str, Any], key: str) -> Context:
  mask = t.get(f"{key}_mask")
  return Context(jnp.asarray(t[key]), None if mask is None else jnp.asarray(mask, bool))


def _video_schedule(latents: np.ndarray, config: MixtureConfig, steps: int) -> Schedule:
  frames, height, width = latents.shape[-3:]
  return flow_schedule(steps, video_shift(height * width / config.video.patch[1] / config.video.patch[2], frames))


def _observed(t: dict[str, np.ndarray], key: str = "first_frame_latents") -> Any:
  return _frames_last(t[key]) if key in t else None


def _video_loop(case: GoldenCase) -> Compared:
  t, meta = case.tensors, case.meta
  model, params, config = _model(case, meta["video_ctor_overrides"])
  schedule = _video_schedule(t["latents_init"], config, meta["steps"])
  yield _timesteps("timesteps", schedule, t)
  latents, trace = jax.jit(
    lambda noise: sampler.sample_video(
      model,
      params,
      noise,
      schedule,
      _context(t, "context"),
      observed=_observed(t),
      guidance=meta["cfg_scale"],
      negative=_context(t, "negative_context") if "negative_context" in t else None,
      trace=True,
    )
  )(_frames_last(t["latents_init"]))
  yield "latents_final", _frames_second(latents), t["latents_final"]
  names = {"sample": "sample", "velocity": "model_output_cfg", "result": "prev_sample_before_reimpose"}
  yield from _steps(trace._asdict(), names, t, _frames_second)


def _steps(trace: dict[str, Any], names: dict[str, str], t: dict[str, np.ndarray], layout: Callable) -> Compared:
  for ours, theirs in names.items():
    for step, value in enumerate(np.asarray(trace[ours])):
      if f"step{step}/{theirs}" in t:
        yield f"step{step}/{theirs}", layout(value), t[f"step{step}/{theirs}"]


def _joint_loop(case: GoldenCase) -> Compared:
  t, meta = case.tensors, case.meta
  model, params, config = _model(case, meta["video_ctor_overrides"])
  schedule = _video_schedule(t["latents_init"], config, meta["steps"])
  action_schedule = flow_schedule(meta["steps"], ACTION_SHIFT)
  yield _timesteps("timesteps", schedule, t)
  yield _timesteps("timesteps_action", action_schedule, t)
  (latents, actions), trace = jax.jit(
    lambda noise, action_noise: sampler.sample_joint(
      model,
      params,
      noise,
      action_noise,
      schedule,
      action_schedule,
      _context(t, "context"),
      observed=_observed(t),
      guidance=meta["cfg_scale"],
      negative=_context(t, "negative_context"),
      trace=True,
    )
  )(_frames_last(t["latents_init"]), t["noise_action"])
  yield "latents_final", _frames_second(latents), t["latents_final"]
  yield "action", actions, t["action"]
  for index, part, layout in ((0, "video", _frames_second), (1, "action", np.asarray)):
    names = {"velocity": f"{part}_model_output", "result": f"{part}_prev_sample"}
    steps = {"velocity": trace.velocity[index], "result": trace.result[index]}
    yield from _steps(steps, names, t, layout)


def _action_loop(case: GoldenCase) -> Compared:
  t, meta = case.tensors, case.meta
  model, params, config = _model(case, meta["video_ctor_overrides"])
  context = _context(t, "context")
  schedule = flow_schedule(meta["steps"], ACTION_SHIFT)
  yield _timesteps("timesteps", schedule, t)
  memory = jax.jit(lambda z: model.apply({"params": params}, None, z, context, method="extend"))(_observed(t))
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
  model, params, config = _model(case, meta["video_ctor_overrides"])

  def with_state(context) -> Any:
    return model.apply({"params": params}, context, t["robot_state"], method="with_state")

  context, negative = (with_state(_context(t, key)) for key in ("context", "negative_context"))
  observed = _frames_last(t["z"])
  for mode, run in meta["runs"].items():
    part = case.part(f"{mode}/")
    frames = (run["num_frames"] - 1) // 4 + 1
    tokens = run["height"] // 8 * (run["width"] // 8) / config.video.patch[1] / config.video.patch[2]
    schedule = flow_schedule(run["steps"], video_shift(tokens, frames))
    action_schedule = flow_schedule(run["steps"], ACTION_SHIFT)
    yield _timesteps("timesteps", schedule, part)
    yield _timesteps("timesteps_action", action_schedule, part)
    guidance = dict(guidance=run["cfg_scale"], negative=negative)
    if mode == "action":
      memory: Any = model.apply({"params": params}, None, observed, context, method="extend")
      noise_action = jnp.asarray(part["noise_action"])
      actions, _ = sampler.sample_actions(model, params, memory, noise_action, action_schedule, context)
      yield f"{mode}/out_action", actions, part["out_action"]
      continue
    noise = _frames_last(part["noise"])
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
    yield f"{mode}/out_video", _frames_second(video), part["out_video"]


def _schedules(case: GoldenCase) -> Compared:
  for run in case.meta["runs"]:
    name, ctor, call = run["name"], run["ctor"], run["set_timesteps"]
    shift = call.get("shift", ctor.get("shift", 3.0))
    if ctor.get("exponential_shift"):
      shift = video_shift(call["dynamic_shift_len"], call["num_frames"])
    yield f"{name}/final_shift", shift, run["final_shift"]
    if run["cls"].startswith("DMD"):
      schedule = dmd_schedule(call["selected_sampling_time"], shift)
    else:
      schedule = flow_schedule(
        call["num_inference_steps"],
        shift,
        sigma_min=ctor.get("sigma_min", 0.003 / 1.002),
        strength=call.get("denoising_strength", 1.0),
        endpoint=not ctor.get("extra_one_step", False),
        inverse=ctor.get("inverse_timesteps", False),
        reverse=ctor.get("reverse_sigmas", False),
        terminal=ctor.get("shift_terminal"),
      )
    t = case.part(f"{name}/")
    yield f"{name}/sigmas", schedule.sigmas, t["sigmas"]
    yield _timesteps("timesteps", schedule, t)
    if call.get("training"):
      yield from _training_schedule(name, schedule, t, case.tensors)


def _timesteps(name: str, schedule: Schedule, t: dict[str, np.ndarray]) -> tuple[str, Any, Any]:
  """A timestep is 1000 sigma, so its last float32 digit is above an absolute 1e-5: compared on the scale of sigma."""
  return f"{name} / 1000", schedule.timesteps / 1000, t[name] / 1000


def _training_schedule(
  name: str, schedule: Schedule, t: dict[str, np.ndarray], shared: dict[str, np.ndarray]
) -> Compared:
  x, noise = shared["x"], shared["noise"]
  yield f"{name}/weights", schedule.weights, t["weights"]
  index = [schedule.nearest(timestep) for timestep in t["query_timesteps"]]
  sigma, next_sigma = (s[index][:, None, None] for s in (schedule.sigmas, schedule.next_sigmas))
  yield f"{name}/add_noise", (1 - sigma) * x + sigma * noise, t["add_noise"]
  yield f"{name}/training_weight", schedule.weights[index], t["training_weight"]
  yield f"{name}/training_target", noise - x, t["training_target"]
  yield f"{name}/step", x + noise * (next_sigma - sigma), t["step"]
  yield f"{name}/step_to_final", x + noise * (schedule.final - sigma[1]), t["step_to_final"]  # the second query


def _proprio(case: GoldenCase) -> Compared:
  t = case.tensors
  model, params, _ = _model(case, {})
  mask, state_mask = t["context_mask"].astype(bool), t["state2_mask"].astype(bool)
  runs = {
    "a_2d_nomask": (None, t["state2"], None),
    "b_2d_mask": (None, t["state2"], state_mask),
    "c_2d_ctxmask": (mask, t["state2"], state_mask),
    "d_3d": (mask, t["state3"], None),
  }
  for name, (context_mask, state, mask_of_state) in runs.items():
    context = _context({"context": t["context"], "context_mask": context_mask}, "context")
    out: Any = model.apply({"params": params}, context, state, mask_of_state, method="with_state")
    yield f"{name}/context_out", out.tokens, t[f"{name}/context_out"]
    yield f"{name}/context_mask_out", out.mask, t[f"{name}/context_mask_out"]


def _loop_tolerance(case: GoldenCase) -> float:
  guided = case.meta.get("cfg_scale", 1.0) != 1.0 or case.name.endswith("full_call")
  return 1e-3 if guided else 1e-4


# Kind of case -> (runner, maximum absolute error in float32): operators 1e-5, towers 1e-4, loops with guidance 1e-3.
RUNNERS: dict[str, tuple[Callable[[GoldenCase], Compared], Callable[[GoldenCase], float]]] = {
  "c01": (_gated_delta_rule, lambda case: 1e-5),
  "c02": (_gated_delta_net, lambda case: 1e-5),
  "c03": (_masks, lambda case: 0.0),
  "c04": (_attention, lambda case: 1e-5),
  "c05": (_video_tower, lambda case: 1e-4),
  "c06": (_mixture, _loop_tolerance),
  "c08": (_schedules, lambda case: 1e-5),
  "c11": (_proprio, lambda case: 1e-5),
}
