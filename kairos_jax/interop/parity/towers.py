"""c05, c06 (one pass), c11: weights, the video tower, both towers together, the robot's state in the context."""

from typing import Any

import jax
import numpy as np
from einops import rearrange

from kairos_jax.interop import golden, reference_names
from kairos_jax.interop.golden import GoldenCase
from kairos_jax.interop.parity.case import Compared, context_of, frames_last, frames_second, model_of
from kairos_jax.model import WorldActionConfig
from kairos_jax.model.memory import layer_name


def weights(case: GoldenCase) -> Compared:
  """Conversion in and out again: bit-exact."""
  config = golden.model_config(case.meta, {})
  params = reference_names.from_reference(case.tensors, config)
  back = reference_names.to_reference(params, config, bare="dit" in case.meta)
  yield "names", sorted(back) == sorted(case.tensors), True
  for name, value in case.tensors.items():
    yield name, back[name], value


def video_tower(case: GoldenCase) -> Compared:
  """c05: one pass of the video tower, with its intermediates where the case holds them."""
  for meta in case.meta["runs"]:
    model, params, config = model_of(case, meta["ctor_overrides"])
    name, batch = f"{meta['name']}/", meta["batch"]
    t = case.part(name)
    rows = slice(1, 2) if "row 1" in meta["context"] else slice(0, batch)
    mask = None if meta["context_mask"] == "None" else case.tensors["context_mask"][rows]
    context = context_of({"context": case.tensors["context"][rows], "context_mask": mask}, "context")
    out, kept = jax.jit(
      lambda latents, timestep, context, model=model, params=params, num_observed=meta["num_history_frames"]: (
        model.apply(
          {"params": params},
          latents,
          timestep,
          context,
          num_observed=num_observed,
          method="denoise_video",
          mutable=["intermediates"],
        )
      )
    )(frames_last(t["latents"]), np.broadcast_to(t["timestep"], (batch,)), context)
    yield f"{name}out", frames_second(out), t["out"]
    if any(key.startswith("trace/") for key in t):
      yield from _trace(name, kept["intermediates"]["video"], t, config)


def _trace(name: str, kept: dict[str, Any], t: dict[str, np.ndarray], config: WorldActionConfig) -> Compared:
  """The named intermediates of one pass, where the case holds them; without the frames that pad a clip on a mesh."""
  got = {key: value[0] for key, value in kept.items() if key != "groups"}
  frames, tokens = t["latents"].shape[2], got["patch_tokens"].shape[2]
  ours = {
    "patch_tokens": rearrange(got["patch_tokens"][:, :frames], "b f l d -> b (f l) d"),
    "t": np.repeat(got["t"][:1, :frames], tokens, axis=1),
    "t_mod": np.repeat(got["t_mod"][:1, :frames], tokens, axis=1),
    "context_emb": got["context_emb"],
    "freqs_cos": rearrange(got["rope_cos_sin"][0][:frames], "f l d -> (f l) d"),
    "freqs_sin": rearrange(got["rope_cos_sin"][1][:frames], "f l d -> (f l) d"),
  }
  size = len(config.video.group)
  for layer in range(len(config.video.layers)):
    out = kept["groups"][layer_name(layer % size)]["out"][0][layer // size]
    ours[f"block{layer}_out"] = rearrange(out[:, :frames], "b f l d -> b (f l) d")
  for key, value in ours.items():
    if f"trace/{key}" in t:
      yield f"{name}trace/{key}", value, t[f"trace/{key}"]


def joint_once(case: GoldenCase) -> Compared:
  """c06: one pass of video and actions together."""
  for meta in case.meta["runs"]:
    model, params, _ = model_of(case, meta["video_ctor_overrides"])
    name, batch = f"{meta['name']}/", meta["batch"]
    t = case.part(name)
    video, action = jax.jit(
      lambda *inputs, model=model, params=params, num_observed=meta["num_history_frames"]: model.apply(
        {"params": params}, *inputs, num_observed=num_observed, method="denoise_joint"
      )
    )(
      frames_last(t["latents"]),
      np.broadcast_to(t["timestep"], (batch,)),
      t["action"],
      np.broadcast_to(t["timestep_action"], (batch,)),
      context_of(t, "context"),
    )
    yield f"{name}pred_video", frames_second(video), t["pred_video"]
    yield f"{name}pred_action", action, t["pred_action"]


def proprio(case: GoldenCase) -> Compared:
  """c11: the robot's state appended to the context."""
  t = case.tensors
  model, params, _ = model_of(case, {})
  mask, state_mask = t["context_mask"].astype(bool), t["state2_mask"].astype(bool)
  runs = {
    "a_2d_nomask": (None, t["state2"], None),
    "b_2d_mask": (None, t["state2"], state_mask),
    "c_2d_ctxmask": (mask, t["state2"], state_mask),
    "d_3d": (mask, t["state3"], None),
  }
  for name, (context_mask, state, mask_of_state) in runs.items():
    context = context_of({"context": t["context"], "context_mask": context_mask}, "context")
    out: Any = model.apply({"params": params}, context, state, mask_of_state, method="with_state")
    yield f"{name}/context_out", out.tokens, t[f"{name}/context_out"]
    yield f"{name}/context_mask_out", out.mask, t[f"{name}/context_mask_out"]
