"""The parts that both towers are made of: attention, feed-forward, modulation, and the block that joins them."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from kairos_jax.model import rotation
from kairos_jax.model.gated_delta_net import DeltaState, GatedDeltaNet
from kairos_jax.model.lora import COLLECTION
from kairos_jax.model.low_bit import Dense

# q, k, v [B *S H D] -> what each query reads [B *S H D].
Attend = Callable[[Array, Array, Array], Array]


def modulate(x: Float[Array, "*B D"], scale: Float[Array, "*#B D"], shift: Float[Array, "*#B D"]) -> Array:
  """Adaptive normalization: what a timestep makes of a normalized x."""
  return x * (1 + scale) + shift


class Mlp(nn.Module):
  """Linear, SiLU, Linear."""

  hidden: int
  out: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
    x = nn.silu(Dense(self.hidden, dtype=self.dtype, name="up")(x))
    return Dense(self.out, dtype=self.dtype, name="down")(x)


class TimeEmbedding(nn.Module):
  """Timestep (0..1000) -> its embedding t and the six modulations of every block. In float32 throughout."""

  dim: int
  freq_dim: int

  @nn.compact
  def __call__(self, timestep: Float[Array, "*B"]) -> tuple[Float[Array, "*B D"], Float[Array, "*B 6 D"]]:
    t = Mlp(self.dim, self.dim, name="embedding")(rotation.timestep_embedding(timestep, self.freq_dim))
    t_mod = nn.Dense(6 * self.dim, name="projection")(nn.silu(t))
    return t, rearrange(t_mod, "... (six d) -> ... six d", six=6)


class SelfAttention(nn.Module):
  """q, k normalized over the whole width (all heads together), then turned; `attend` decides who sees whom."""

  dim: int
  attention_dim: int
  heads: int
  eps: float
  dtype: Any
  float16_rope: bool = False

  @nn.compact
  def __call__(
    self, x: Float[Array, "B *S D"], rope_cos_sin: tuple[Array, Array], attend: Attend
  ) -> tuple[Float[Array, "B *S D"], dict[str, Float[Array, "B *S H K"]]]:
    """Returns the output and the keys and values that a cache keeps."""
    q, k, v = (Dense(self.attention_dim, dtype=self.dtype, name=name)(x) for name in "qkv")
    q = nn.RMSNorm(self.eps, dtype=self.dtype, name="norm_q")(q)
    k = nn.RMSNorm(self.eps, dtype=self.dtype, name="norm_k")(k)
    q, k, v = (rearrange(y, "... (h d) -> ... h d", h=self.heads) for y in (q, k, v))
    if self.float16_rope:
      q, k = (y.astype(jnp.float16).astype(y.dtype) for y in (q, k))
    q, k = rotation.apply_rope(q, rope_cos_sin), rotation.apply_rope(k, rope_cos_sin)
    read = rearrange(attend(q, k, v), "... h d -> ... (h d)")
    return Dense(self.dim, dtype=self.dtype, name="o")(read), {"k": k, "v": v}


class CrossAttention(nn.Module):
  """Tokens read the context (text, image, robot state). No RoPE."""

  dim: int
  attention_dim: int
  heads: int
  eps: float
  dtype: Any

  @nn.compact
  def __call__(
    self, x: Float[Array, "B S D"], context: Float[Array, "B N D"], mask: Bool[Array, "B N"] | None
  ) -> Float[Array, "B S D"]:
    q = Dense(self.attention_dim, dtype=self.dtype, name="q")(x)
    k, v = (Dense(self.attention_dim, dtype=self.dtype, name=name)(context) for name in "kv")
    q = nn.RMSNorm(self.eps, dtype=self.dtype, name="norm_q")(q)
    k = nn.RMSNorm(self.eps, dtype=self.dtype, name="norm_k")(k)
    q, k, v = (rearrange(y, "b s (h d) -> b s h d", h=self.heads) for y in (q, k, v))
    read = jax.nn.dot_product_attention(q, k, v, mask=None if mask is None else mask[:, None, None, :])
    return Dense(self.dim, dtype=self.dtype, name="o")(rearrange(read, "b s h d -> b s (h d)"))


class Block(nn.Module):
  """Gated self-attention (or gated delta net), cross-attention, gated feed-forward.

  Source: the reference's block; the order of the six modulations is its own, not Wan's.
  """

  kind: str
  dim: int
  attention_dim: int
  heads: int
  ffn_dim: int
  eps: float
  dtype: Any
  key_dim: int = 0  # of the gated delta net
  value_dim: int = 0
  kernels: str = "auto"
  float16_rope: bool = False
  decay: bool = True
  correction: bool = True

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B *S D"],
    t_mod: Float[Array, "B *T 6 D"],
    context: Float[Array, "B N D"],
    context_mask: Bool[Array, "B N"] | None,
    *,
    rope_cos_sin: tuple[Array, Array],
    attend: Attend | None = None,
    state: DeltaState | None = None,
    frames: int | None = None,
  ) -> tuple[Float[Array, "B *S D"], Any]:
    """Returns the tokens and what a later frame needs of them: keys and values, or the delta net's state.

    `t_mod` holds one modulation for the last axis of S: per frame for video [B F L D], per clip for actions [B A D]; or
    one for each token, with as many axes as S. Of video, frames from `frames` on are padding.
    """
    attention = (self.dim, self.attention_dim, self.heads, self.eps, self.dtype)
    init = nn.initializers.normal(self.dim**-0.5)
    modulation = self.param("modulation", init, (6, self.dim)).astype(self.dtype) + t_mod
    if modulation.ndim == x.ndim:
      modulation = modulation[..., None, :, :]
    scale_a, shift_a, gate_a, scale_f, shift_f, gate_f = (modulation[..., i, :] for i in range(6))

    hidden = modulate(self._norm("self_attn_norm", affine=False)(x), scale_a, shift_a)
    kept: Any
    if self.kind == "GATED":
      net = GatedDeltaNet(
        self.dim,
        self.heads,
        self.key_dim,
        self.value_dim,
        self.eps,
        self.dtype,
        self.kernels,
        self.decay,
        self.correction,
        name="gated_delta",
      )
      tokens = None if frames is None else frames * hidden.shape[-2]
      mixed, kept = net(hidden.reshape(hidden.shape[0], -1, self.dim), state, tokens)
      mixed = mixed.reshape(hidden.shape)
    else:
      assert attend is not None, f"a block of kind {self.kind} needs `attend`"
      mixed, kept = SelfAttention(*attention, self.float16_rope, name="self_attn")(hidden, rope_cos_sin, attend)
    x = x + gate_a * mixed

    hidden = self._norm("cross_attn_norm", affine=True)(x).reshape(x.shape[0], -1, self.dim)
    x = x + CrossAttention(*attention, name="cross_attn")(hidden, context, context_mask).reshape(x.shape)

    hidden = modulate(self._norm("ffn_norm", affine=False)(x), scale_f, shift_f)
    x = x + gate_f * Mlp(self.ffn_dim, self.dim, self.dtype, name="ffn")(hidden)
    self.sow("intermediates", "out", x)
    return x, kept

  def _norm(self, name: str, *, affine: bool) -> nn.LayerNorm:
    return nn.LayerNorm(self.eps, self.dtype, use_bias=affine, use_scale=affine, use_fast_variance=False, name=name)


REMAT_POLICIES = {
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}


def scan_groups(group: type[nn.Module], groups: int, remat: str) -> type[nn.Module]:
  """Repeats a layer group: parameters, adapters, memories and intermediates get a leading axis; it compiles once.

  The group is called with (x, xs, shared): `xs` is cut along its leading axis, `shared` goes to every repeat.
  """
  if remat != "none":
    group = nn.remat(group, policy=REMAT_POLICIES[remat], prevent_cse=False)
  return nn.scan(
    group,
    variable_axes={"params": 0, COLLECTION: 0, "intermediates": 0},
    split_rngs={"params": True},
    in_axes=(0, nn.broadcast),
    out_axes=0,
    length=groups,
  )
