"""Denoising a chunk of actions from the memory of a history, beside the same written plainly in PyTorch.

  kairos bench denoise

Needs the extra `bench`. The other side is the reference's form: modules that run one after the other, layer by layer
and step by step, with attention by `scaled_dot_product_attention` over the keys of the history and of the actions.
Weights are random and the same, in float32; nothing is timed before both give the same chunk.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kairos_jax import console, timing
from kairos_jax.errors import KairosError
from kairos_jax.flow.sampler import sample_actions
from kairos_jax.flow.schedule import ACTION_SHIFT, Schedule, flow_schedule
from kairos_jax.interfaces import Context
from kairos_jax.model import ActionConfig, Memory, VideoConfig, WorldActionConfig, WorldActionModel, random_weights
from kairos_jax.model.memory import layer_name
from kairos_jax.timing import Times
from pallas_kernels import peers

TOLERANCE = 1e-4  # largest difference of the chunks, whose numbers are of about 1
STEPS, ACTIONS, HISTORY, SIDE, WORDS = 10, 32, 8, 16, 32  # SIDE: of a latent frame
SMALL = WorldActionConfig(
  VideoConfig(dim=512, ffn_dim=1024, heads=8, layers=("SWA", "SWA", "DSWA", "GATED") * 2, key_dim=64, value_dim=128),
  ActionConfig(dim=256, attention_dim=512, ffn_dim=1024, heads=8, video_frames=HISTORY),
)


class Inputs(NamedTuple):
  """What a chunk is made of: the memory is full, so that actions read all frames that it has room for."""

  params: dict[str, Any]
  memory: Memory
  context: Context
  noise: Float[Array, "1 A action_dim"]


def inputs(config: WorldActionConfig, *, history: int, side: int, actions: int, words: int) -> Inputs:
  """Random weights, and random numbers for latents, words and noise."""
  video, action, rng = config.video, config.action, np.random.default_rng(0)
  assert action is not None, "there is no action tower"
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))  # noqa: E731
  model, params = WorldActionModel(config), random_weights.draw(config)
  context = Context(draw(1, words, video.text_dim))
  see = jax.jit(lambda p, x, c: model.apply({"params": p}, None, x, c, method="extend"))
  memory = see(params, draw(1, history, side, side, video.channels), context)
  return Inputs(params, memory, context, draw(1, actions, action.action_dim))


def ours(config: WorldActionConfig, given: Inputs, schedule: Schedule) -> Callable[[], Array]:
  """Denoises by the policy's own program."""
  model = WorldActionModel(config)
  run = jax.jit(lambda p, memory, noise, context: sample_actions(model, p, memory, noise, schedule, context)[0])
  return lambda: run(given.params, given.memory, given.noise, given.context)


def torch_form(config: WorldActionConfig, given: Inputs, schedule: Schedule) -> Callable[[], Any]:
  """Denoises by plain PyTorch."""
  import torch
  from torch.nn import functional

  action = config.action
  assert action is not None, "there is no action tower"
  heads, width, group = action.heads, action.attention_dim // action.heads, config.video.group

  def tensors(tree: Any) -> Any:
    tree = {name: tensors(x) if isinstance(x, dict) else np.array(x, np.float32) for name, x in tree.items()}
    turned = {name: x.T if name == "kernel" else x for name, x in tree.items()}
    return {name: x if isinstance(x, dict) else torch.from_numpy(np.ascontiguousarray(x)) for name, x in turned.items()}

  weights = given.params["action"]
  layers, cached = [], []
  for number in range(len(config.video.layers)):
    repeat, name = number // len(group), layer_name(number % len(group))
    layers.append(tensors(jax.tree.map(lambda x, repeat=repeat: np.asarray(x)[repeat], weights["groups"][name])))
    cache = given.memory.action.get(name)
    rows = None
    if cache is not None:
      rows = [torch.from_numpy(np.array(x[repeat]).reshape(1, -1, heads, width)) for x in (cache.k, cache.v)]
    cached.append(rows)
  rest = tensors({name: x for name, x in weights.items() if name != "groups"})
  words, noise = (torch.from_numpy(np.array(x)) for x in (given.context.tokens, given.noise))
  turns = np.arange(noise.shape[1])[:, None] * 10000.0 ** (-np.arange(width // 2) / (width // 2))
  cos, sin = (torch.from_numpy(f(turns).astype(np.float32))[:, None] for f in (np.cos, np.sin))

  def linear(x, layer):
    return functional.linear(x, layer["kernel"], layer["bias"])

  def mlp(x, layer):
    return linear(functional.silu(linear(x, layer["up"])), layer["down"])

  def norm(x, layer=None):
    affine = (None, None) if layer is None else (layer["scale"], layer["bias"])
    return functional.layer_norm(x, x.shape[-1:], *affine, eps=action.eps)

  def projected(x, layer, name):
    x = linear(x, layer[name])
    if name != "v":
      x = functional.rms_norm(x, x.shape[-1:], layer[f"norm_{name}"]["scale"], action.eps)
    return x.unflatten(-1, (heads, width))

  def turned(x):
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)

  def attend(q, k, v, layer):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return linear(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2), layer["o"])

  def block(x, layer, cache, modulations, text):
    scale_a, shift_a, gate_a, scale_f, shift_f, gate_f = (layer["modulation"] + modulations).unbind(1)
    hidden, own = norm(x) * (1 + scale_a) + shift_a, layer["self_attn"]
    q, k, v = (projected(hidden, own, name) for name in "qkv")
    q, k = turned(q), turned(k)
    if cache is not None:
      k, v = (torch.cat([past, now], dim=1) for past, now in zip(cache, (k, v), strict=True))
    x = x + gate_a * attend(q, k, v, own)
    other, hidden = layer["cross_attn"], norm(x, layer["cross_attn_norm"])
    q, k, v = (projected(source, other, name) for source, name in ((hidden, "q"), (text, "k"), (text, "v")))
    x = x + attend(q, k, v, other)
    return x + gate_f * mlp(norm(x) * (1 + scale_f) + shift_f, layer["ffn"])

  def velocity(actions, timestep):
    angle = timestep * 10000.0 ** (-torch.arange(action.freq_dim // 2, dtype=torch.float64) / (action.freq_dim // 2))
    embedded = mlp(torch.cat([angle.cos(), angle.sin()]).float()[None], rest["time"]["embedding"])
    modulations = linear(functional.silu(embedded), rest["time"]["projection"]).unflatten(-1, (6, -1))
    text = mlp(words, rest["text_embedding"])
    x = linear(actions, rest["action_encoder"])
    for layer, cache in zip(layers, cached, strict=True):
      x = block(x, layer, cache, modulations, text)
    return linear(x, rest["head"])

  def run():
    with torch.inference_mode():
      actions = noise
      for timestep, sigma, after in zip(schedule.timesteps, schedule.sigmas, schedule.next_sigmas, strict=True):
        actions = actions + velocity(actions, float(timestep)) * float(after - sigma)
      return actions

  return run


def compare(config: WorldActionConfig, given: Inputs, *, steps: int, rounds: int) -> dict[str, Times]:
  """Times of "ours" and "torch", in turns.

  Raises:
    KairosError: torch is not installed, or its chunk is another.
  """
  if reason := peers.absent("torch"):
    raise KairosError(reason)
  schedule = flow_schedule(steps, ACTION_SHIFT)
  calls = {"ours": ours(config, given, schedule), "torch": torch_form(config, given, schedule)}
  mine, theirs = (np.asarray(call()) for call in calls.values())
  error = float(np.abs(mine - theirs).max())
  if not error <= TOLERANCE:
    raise KairosError(f"bench: the chunk is off PyTorch's by {error:.1e}; at most {TOLERANCE:.0e} is allowed")
  return timing.measure(calls, rounds=rounds)


def main(rounds: int) -> None:
  """Prints one line for each side, at `SMALL`."""
  given = inputs(SMALL, history=HISTORY, side=SIDE, actions=ACTIONS, words=WORDS)
  times = compare(SMALL, given, steps=STEPS, rounds=rounds)
  shape = f"{len(SMALL.video.layers)} layers, {ACTIONS} actions, {HISTORY} latents of {SIDE} x {SIDE}, {STEPS} steps"
  console.show(f"{jax.devices()[0].device_kind}, float32, {shape}")
  console.show(f"{'':<6}  {'median, ms':>10}  {'95 %, ms':>8}  {'of processors, ms':>17}")
  for name, one in times.items():
    console.show(f"{name:<6}  {one.median * 1e3:>10.1f}  {one.p95 * 1e3:>8.1f}  {one.processor * 1e3:>17.1f}")
  wall, processor = (getattr(times["torch"], x) / getattr(times["ours"], x) for x in ("median", "processor"))
  console.show(f"ours is {wall:.2f} times as fast by the clock, {processor:.2f} times by processor time")
