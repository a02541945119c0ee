"""Video tower (VideoDiT): predicts the velocity of noisy latent frames, reading the frames before them."""

import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from kairos_jax.errors import KairosError
from kairos_jax.interfaces import Context
from kairos_jax.model import memory as memory_lib
from kairos_jax.model import rotation
from kairos_jax.model.config import VideoConfig
from kairos_jax.model.layers import Block, Mlp, TimeEmbedding, modulate, scan_groups
from kairos_jax.model.memory import Memory, layer_name
from kairos_jax.parallel.activations import constrain, padded_frames
from pallas_kernels.window_attention import Span, window_attention


@flax.struct.dataclass
class _Shared:
  """What every layer group gets whole."""

  t_mod: Float[Array, "B F 6 D"]
  context: Float[Array, "B N D"]
  context_mask: Bool[Array, "B N"] | None
  rope_cos_sin: tuple[Array, Array]
  num_observed: Int[Array, "#B"]
  stop: Int[Array, "#B"] | None
  position: Int[Array, "B"] | None
  num_observed_bound: int = flax.struct.field(pytree_node=False)
  frames: int | None = flax.struct.field(pytree_node=False)  # that there are, where padding follows them


class _VideoGroup(nn.Module):
  config: VideoConfig
  remember: bool

  @nn.compact
  def __call__(self, x: Float[Array, "B F L D"], past: dict[str, Any], shared: _Shared):
    config, written = self.config, {}
    for i, kind in enumerate(config.group):
      name = layer_name(i)
      block = Block(
        kind,
        config.dim,
        config.dim,
        config.heads,
        config.ffn_dim,
        config.eps,
        config.dtype,
        config.key_dim,
        config.value_dim,
        config.delta_kernels,
        config.float16_rope,
        config.decay,
        config.correction,
        name=name,
      )
      x, kept = block(
        x,
        shared.t_mod,
        shared.context,
        shared.context_mask,
        rope_cos_sin=shared.rope_cos_sin,
        attend=functools.partial(self._attend, kind=kind, cache=past.get(name), shared=shared),
        state=past.get(name) if kind == "GATED" else None,
        frames=shared.frames,
      )
      x = constrain(x, "video")
      if self.remember:
        written[name] = kept
    return x, written

  def _attend(self, q, k, v, kind: str, cache: memory_lib.FrameCache | None, shared: _Shared):
    earlier, start, past = 0, None, None
    if cache is not None and shared.position is not None:
      earlier, start = cache.frames, memory_lib.first_frame(cache, shared.position)
      past = (cache.k, cache.v)
    span = Span(
      num_observed=earlier + shared.num_observed,
      start=start,
      stop=None if shared.stop is None else earlier + shared.stop,
      num_observed_bound=earlier + shared.num_observed_bound,
    )
    rule = self.config.attention_rule(kind)
    return window_attention(q, k, v, rule, span, past=past, implementation=self.config.kernels)


@flax.struct.dataclass
class Reuse:
  """What the blocks added in an earlier pass to the patches, and whether this pass adds it again and skips them."""

  again: Bool[Array, ""]
  added: Float[Array, "B F L D"]


class VideoTower(nn.Module):
  """Hybrid attention in linear cost; see `VideoConfig`."""

  config: VideoConfig

  @nn.compact
  def __call__(
    self,
    latents: Float[Array, "B F H W C"],
    timestep: Float[Array, "B"],
    context: Context,
    *,
    num_observed: int | Int[Array, "B"] = 0,
    length: Int[Array, "B"] | None = None,
    memory: Memory | None = None,
    remember: bool = False,
    reuse: Reuse | None = None,
  ) -> tuple[Float[Array, "B F H W C"], Any]:
    """One pass over F latent frames.

    Args:
      latents: the first `num_observed` frames clean, the rest at noise level `timestep` (0 .. 1000).
      num_observed: observed frames among these, one number or one per clip; their timestep is 0.
      length: frames that are not padding; None: all.
      memory: of the frames before these.
      remember: also return what a memory keeps of these frames, for `memory.extend`.
      reuse: what the blocks added in an earlier pass, and whether to add it again in their place.

    Returns:
      Velocity (noise minus data) of every frame, and what was written by layer ({} without `remember`), whose keys and
      values may be followed by those of padding; with `reuse`, in its place what the blocks added.

    Raises:
      KairosError: height or width is not a multiple of the patch; a memory under the token-level rule.
    """
    config = self.config
    batch, frames, height, width, channels = latents.shape
    if height % config.patch[1] or width % config.patch[2] or channels != config.channels:
      raise KairosError(
        f"latents are {height}x{width}x{channels}; height and width must be multiples of {config.patch[1:]} "
        f"and channels {config.channels}"
      )
    if memory is not None and config.rule == "token":
      raise KairosError("model.video.rule is 'token', which cannot stream: its windows look ahead; use 'frame'")
    rows, columns = height // config.patch[1], width // config.patch[2]
    whole, padded = frames, frames if config.rule == "token" else padded_frames(frames)
    if padded > frames:  # so that all devices along the mesh's axis of time hold as many
      latents = jnp.pad(latents, ((0, 0), (0, padded - frames), (0, 0), (0, 0), (0, 0)))
      length, frames = (jnp.full(batch, whole) if length is None else length), padded

    observed = jnp.arange(frames) < jnp.reshape(jnp.asarray(num_observed), (-1, 1))
    timesteps = jnp.where(observed, 0.0, timestep.astype(jnp.float32)[:, None])
    t, t_mod = TimeEmbedding(config.dim, config.freq_dim, name="time")(timesteps)
    t, t_mod = constrain(t.astype(config.dtype), "timestep"), constrain(t_mod.astype(config.dtype), "modulation")
    embedded = Mlp(config.dim, config.dim, config.dtype, name="text_embedding")(context.tokens)
    embedded = constrain(embedded, "context")

    patch = dict(zip(("x", "y", "z"), config.patch, strict=True))
    x = rearrange(latents, "b (f x) (h y) (w z) c -> b f (h w) (x y z c)", **patch)
    x = constrain(nn.Dense(config.dim, dtype=config.dtype, name="patch_embedding")(x), "video")
    position = None if memory is None else memory.position
    rope_cos_sin = rotation.video_rope(
      jnp.int32(0) if position is None else position, frames, rows, columns, config.dim // config.heads
    )
    for name, value in dict(patch_tokens=x, t=t, t_mod=t_mod, context_emb=embedded, rope_cos_sin=rope_cos_sin).items():
      self.sow("intermediates", name, value)

    shared = _Shared(
      t_mod=t_mod,
      context=embedded,
      context_mask=context.mask,
      rope_cos_sin=rope_cos_sin,
      num_observed=jnp.atleast_1d(jnp.asarray(num_observed)),
      stop=length,
      position=position,
      num_observed_bound=num_observed if isinstance(num_observed, int) else frames,
      frames=whole if frames > whole else None,
    )
    past = {} if memory is None else {**memory.window, **memory.delta}
    groups = scan_groups(_VideoGroup, config.groups, config.remat)(config, remember, name="groups")
    if reuse is None:
      x, written = groups(x, past, shared)
    else:
      before = x
      x = nn.cond(
        reuse.again,
        lambda _, x: x + reuse.added.astype(x.dtype),
        lambda groups, x: groups(x, past, shared)[0],
        groups,
        x,
      )
      written = x - before

    init = nn.initializers.normal(config.dim**-0.5)
    modulation = self.param("head_modulation", init, (2, config.dim)).astype(config.dtype) + t[..., None, :]
    shift, scale = modulation[..., 0, :][..., None, :], modulation[..., 1, :][..., None, :]
    norm = nn.LayerNorm(config.eps, config.dtype, use_bias=False, use_scale=False, use_fast_variance=False)
    size = channels * patch["x"] * patch["y"] * patch["z"]
    head = nn.Dense(size, dtype=config.dtype, kernel_init=nn.initializers.zeros, name="head")
    out = head(modulate(norm(x), scale, shift))
    velocity = rearrange(out, "b f (h w) (x y z c) -> b (f x) (h y) (w z) c", h=rows, w=columns, **patch)
    return velocity[:, :whole].astype(jnp.float32), written


def modulation(params: dict[str, Any], config: VideoConfig, timesteps: Float[Array, "B F"]) -> Float[Array, "B F 6 D"]:
  """What the timesteps of frames make of every block: all that a cache needs to know whether a pass would differ."""
  _, t_mod = TimeEmbedding(config.dim, config.freq_dim).apply({"params": params["time"]}, timesteps)
  return t_mod


def history_frames(written: dict[str, Any], config: VideoConfig, frames: int) -> dict[str, memory_lib.FrameCache]:
  """The first `frames` frames of what attention layers wrote: what actions may read, or all where time is cut."""
  caches = {layer_name(i): memory_lib.FrameCache(**written[layer_name(i)]) for i in config.attention_layers}
  return caches if padded_frames(1) > 1 else jax.tree.map(lambda x: x[:, :, :frames], caches)
