"""Action tower (ActionDiT): predicts the velocity of a noisy action chunk, reading the video tower's history."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kairos_jax.errors import KairosError
from kairos_jax.interfaces import Context
from kairos_jax.model import rotation
from kairos_jax.model.config import ActionConfig
from kairos_jax.model.layers import Block, Mlp, TimeEmbedding, scan_groups
from kairos_jax.model.memory import FrameCache, layer_name
from kairos_jax.parallel.activations import constrain
from pallas_kernels.window_attention import Span, action_attention


class _ActionGroup(nn.Module):
  config: ActionConfig
  layers: int

  @nn.compact
  def __call__(self, x: Float[Array, "B A D"], video: dict[str, FrameCache], shared):
    config = self.config
    t_mod, context, context_mask, rope_cos_sin, seen = shared
    for i in range(self.layers):
      name = layer_name(i)
      block = Block(
        "FA",
        config.dim,
        config.attention_dim,
        config.heads,
        config.ffn_dim,
        config.eps,
        config.dtype,
        name=name,
      )
      attend = functools.partial(_attend, cache=video.get(name), seen=seen, kernels=config.kernels)
      x, _ = block(x, t_mod, context, context_mask, rope_cos_sin=rope_cos_sin, attend=attend)
      x = constrain(x, "actions")
    return x, None


def _attend(q, k, v, cache: FrameCache | None, seen: Span, kernels: str):
  """Actions read each other and, beside an attention layer, the history frames that are `seen`."""
  if cache is None:
    return jax.nn.dot_product_attention(q, k, v)
  return action_attention(q, k, v, cache.k, cache.v, seen, implementation=kernels)


class ActionTower(nn.Module):
  """Full attention over one chunk of actions. `groups` x `layers` equals the video tower's layers."""

  config: ActionConfig
  groups: int
  layers: int

  def setup(self):
    config = self.config
    self.proprio_encoder = Mlp(config.text_dim, config.text_dim, config.dtype)
    self.time = TimeEmbedding(config.dim, config.freq_dim)
    self.text_embedding = Mlp(config.dim, config.dim, config.dtype)
    self.action_encoder = nn.Dense(config.dim, dtype=config.dtype)
    self.blocks = scan_groups(_ActionGroup, self.groups, config.remat)(config, self.layers, name="groups")
    self.head = nn.Dense(config.action_dim, dtype=config.dtype, kernel_init=nn.initializers.zeros)

  def __call__(
    self,
    actions: Float[Array, "B A action_dim"],
    timestep: Float[Array, "B"] | Float[Array, "B A"],
    context: Context,
    video: dict[str, FrameCache],
    seen: Span,
  ) -> Float[Array, "B A action_dim"]:
    """Velocity of the actions at noise level `timestep` (0 .. 1000), of a chunk or of each action.

    Args:
      video: keys and values of N history frames, per attention layer of the video tower's group.
      seen: its `start` and `stop` bound those frames that hold history.

    Raises:
      KairosError: actions of another width than `action_dim`.
    """
    config = self.config
    if actions.shape[-1] != config.action_dim:
      raise KairosError(f"actions have {actions.shape[-1]} numbers; model.action.action_dim is {config.action_dim}")
    _, t_mod = self.time(timestep.astype(jnp.float32))
    text = constrain(self.text_embedding(context.tokens), "context")
    rope_cos_sin = rotation.action_rope(actions.shape[1], config.attention_dim // config.heads)
    shared = (t_mod.astype(config.dtype), text, context.mask, rope_cos_sin, seen)
    x, _ = self.blocks(self.action_encoder(actions), video, shared)
    return self.head(x).astype(jnp.float32)

  def with_state(
    self,
    context: Context,
    state: Float[Array, "B S"] | Float[Array, "B n S"],
    state_mask: Bool[Array, "B S"] | Bool[Array, "B n S"] | None = None,
  ) -> Context:
    """Appends the robot's state to the context, one token per state; a state that is all masked is hidden.

    Raises:
      KairosError: states of another width than `state_dim`.
    """
    if state.shape[-1] != self.config.state_dim:
      raise KairosError(f"state has {state.shape[-1]} numbers; model.action.state_dim is {self.config.state_dim}")
    state_mask = jnp.ones(state.shape, bool) if state_mask is None else state_mask.astype(bool)
    if state.ndim == 2:
      state, state_mask = state[:, None], state_mask[:, None]
    token = self.proprio_encoder(state * state_mask)
    tokens, mask = context.tokens, context.mask
    mask = jnp.ones(tokens.shape[:2], bool) if mask is None else mask.astype(bool)
    return Context(
      jnp.concatenate([tokens, token.astype(tokens.dtype)], axis=1),
      jnp.concatenate([mask, state_mask.any(axis=-1)], axis=1),
    )
