"""c01-c04: the gated delta rule, its layer, the masks, attention."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from kairos_jax.errors import KairosError
from kairos_jax.interop.golden import GoldenCase
from kairos_jax.interop.parity.case import Compared
from kairos_jax.interop.reference_names import module_from_reference
from kairos_jax.model.gated_delta_net import DeltaState, GatedDeltaNet, l2_normalize
from pallas_kernels.gated_delta import gated_delta
from pallas_kernels.window_attention import MaskRule, Span, joint_mask, window_attention


def gated_delta_rule(case: GoldenCase) -> Compared:
  """c01: whole and in two parts, with and without an initial state."""
  run = jax.jit(gated_delta)
  for meta in case.meta["runs"]:
    name = f"T{meta['T']}/"
    t = case.part(name)
    q, k = (l2_normalize(jnp.asarray(t[name]), heads=1) for name in "qk")
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


def gated_delta_net(case: GoldenCase) -> Compared:
  """c02: the layer, whole and in chunks that carry its state."""
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


def masks(case: GoldenCase) -> Compared:
  """c03: every region of the joint mask."""
  meta = case.meta
  tokens, actions = meta["video_tokens_per_frame"], meta["action_seq_len"]
  for key, want in case.tensors.items():
    found = re.fullmatch(r"f(\d+)_h(\d+)_r(\d)_a(\d)/(\w+)@(\w+)", key)
    if not found:
      raise KairosError(f"golden case {case.name}: {key!r} is no mask key")
    frames, num_observed, restrict, all_history = (int(x) for x in found.groups()[:4])
    region, kind = found.groups()[4:]
    window_size, dilation = {"FA": (None, 1), "SWA": (meta["window_size"], 1)}.get(
      kind, (meta["window_size"], meta["dilated_length"])
    )
    rule = MaskRule(window_size, dilation, history_sees_future=not restrict, all_see_history=bool(all_history))
    mask = joint_mask(
      rule, frames=frames, tokens_per_frame=tokens, actions=actions, num_observed=min(num_observed, frames)
    )
    video = frames * tokens
    region_mask = {
      "video_action_mixed": mask,
      "video_only": mask[:video, :video],
      "action_only": mask[video:, video:],
      "action_with_video_cache": mask[video:],
    }[region]
    yield key, region_mask, want


def attention(case: GoldenCase) -> Compared:
  """c04: both attention rules; the reference runs the token-level one as flash, the frame-level one as flex."""
  meta = case.meta
  shape = dict(l=meta["tokens_per_frame"], h=meta["num_heads"])
  for key, want in case.tensors.items():
    frames, *rest = key.split("/")
    if rest[0] in "qkv":
      continue
    q, k, v = (rearrange(case.tensors[f"{frames}/{x}"], "b (f l) (h d) -> b f l h d", **shape) for x in "qkv")
    window_size, dilation = {"SWA": (meta["window_size"], 1), "FA": (None, 1)}.get(
      rest[1], (meta["window_size"], meta["dilated_length"])
    )
    rule, span = MaskRule(window_size, dilation, unit="token"), Span()
    if rest[0] == "flex":
      num_observed, restrict = (int(x) for x in re.findall(r"\d+", rest[2]))
      rule, span = (
        MaskRule(window_size, dilation, history_sees_future=not restrict),
        Span(min(num_observed, q.shape[1])),
      )
    out = jax.jit(window_attention, static_argnames=("rule",))(q, k, v, rule=rule, span=span)
    yield key, rearrange(out, "b f l h d -> b (f l) (h d)"), want
