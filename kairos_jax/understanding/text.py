"""The language model: Qwen2.5's transformer, or Qwen3.5's gated delta nets with a full attention layer in every fourth.

Rows are padded on the right. Rotary positions have three axes, so that an image's tokens know their row and column.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kairos_jax.understanding import delta_net
from kairos_jax.understanding.config import TextConfig
from kairos_jax.understanding.layers import (
  Params,
  attend,
  gated_mlp,
  linear,
  member,
  over_groups,
  rms_norm,
  rotate,
)


@flax.struct.dataclass
class Cache:
  """What later tokens need of earlier ones.

  Attributes:
    groups: for each group of layers keys and values [B S K D], or a delta net's state.
    seen: which of the S slots hold a token.
    slot: where the next token goes, the same for every row.
    position: rotary position of each row's next token.
  """

  groups: Any
  seen: Bool[Array, "B S"]
  slot: Int[Array, ""]
  position: Int[Array, "B"]


def embed(params: Params, ids: Int[Array, "B T"]) -> Float[Array, "B T D"]:
  """Rows of the embedding table."""
  return params["embed"][ids]


def logits(config: TextConfig, params: Params, hidden: Float[Array, "*B D"]) -> Float[Array, "*B vocab"]:
  """Scores of the next token, in float32, from hidden states after the final norm."""
  table = params["embed"] if config.tied else params["head"]
  return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)


def final_norm(config: TextConfig, params: Params, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
  """What the towers read, and what logits are made of."""
  return rms_norm(x, params["norm"], config.eps, centered=config.gated)


def blocks(
  config: TextConfig,
  params: Params,
  x: Float[Array, "B T D"],
  positions: Int[Array, "3 B T"],
  valid: Bool[Array, "B T"],
) -> tuple[Float[Array, "B T D"], Any]:
  """All layers over whole rows, without the final norm; and what they keep for later tokens.

  Args:
    valid: False for padding, which nothing reads and which leaves no trace in a state.
  """
  tokens = x.shape[1]
  mask = jnp.tril(jnp.ones((tokens, tokens), bool)) & valid[:, None, :]
  angles = rope_angles(config, positions)

  def delta(weights: Params, h: Array, before: None) -> tuple[Array, Any]:
    del before
    assert config.delta is not None
    return delta_net.whole(config.delta, config.eps, weights, h, valid)

  group = _group(config, angles, mask, delta, lambda new, before: new)
  return over_groups(group, x, params["groups"])


def start_cache(kept: Any, valid: Bool[Array, "B T"], next_position: Int[Array, "B"], size: int) -> Cache:
  """A cache of `size` slots from what `blocks` kept of the prompts; generated tokens follow the padded prompts."""
  tokens = valid.shape[1]

  def grow(path: Any, x: Array) -> Array:
    if path[-1].key not in ("k", "v"):
      return x
    axis = x.ndim - 3
    return jnp.pad(x, [(0, size - tokens if i == axis else 0) for i in range(x.ndim)])

  groups = jax.tree_util.tree_map_with_path(grow, kept)
  seen = jnp.pad(valid, [(0, 0), (0, size - tokens)])
  return Cache(groups, seen, jnp.asarray(tokens, jnp.int32), next_position.astype(jnp.int32))


def step(config: TextConfig, params: Params, cache: Cache, token: Int[Array, "B"]) -> tuple[Float[Array, "B D"], Cache]:
  """One token more in every row: its hidden state after the final norm, and the cache with it."""
  positions = jnp.broadcast_to(cache.position[None, :, None], (3, *token.shape, 1))
  angles = rope_angles(config, positions)
  seen = jax.lax.dynamic_update_slice_in_dim(cache.seen, jnp.ones((*token.shape, 1), bool), cache.slot, axis=1)

  def delta(weights: Params, h: Array, before: Any) -> tuple[Array, Any]:
    assert config.delta is not None
    return delta_net.one_token(config.delta, config.eps, weights, h, before)

  def behind(new: Params, before: Params) -> Params:
    put = jax.lax.dynamic_update_slice_in_dim
    return jax.tree.map(lambda ours, theirs: put(theirs, ours, cache.slot, axis=1), new, before)

  group = _group(config, angles, seen[:, None], delta, behind)
  x, groups = over_groups(group, embed(params, token[:, None]), params["groups"], cache.groups)
  hidden = final_norm(config, params, x[:, 0])
  return hidden, Cache(groups, seen, cache.slot + 1, cache.position + 1)


def rope_angles(config: TextConfig, positions: Int[Array, "3 B T"]) -> Float[Array, "B T R"]:
  """Angle of each frequency, which turns by the position along its own axis."""
  count = len(config.rope_axes)
  exponents = np.arange(0, 2 * count, 2, dtype=np.float32) / np.float32(2 * count)
  frequencies = 1 / np.float32(config.rope_theta) ** exponents
  of_axis = jnp.moveaxis(positions.astype(jnp.float32), 0, -1)[..., np.asarray(config.rope_axes)]
  return of_axis * frequencies


def _group(
  config: TextConfig,
  angles: Float[Array, "B T R"],
  mask: Bool[Array, "B T S"],
  delta: Callable[[Params, Array, Any], tuple[Array, Any]],
  behind: Callable[[Params, Any], Params],
) -> Callable[..., tuple[Array, Any]]:
  """What `over_groups` runs: a group's layers, whether over whole rows or over one token more.

  Args:
    angles: by which queries and keys are turned.
    mask: which of the S keys a token sees.
    delta: a delta net's output and state, from its weights, its input, and the state before, None at the beginning.
    behind: all S keys "k" and values "v" from the new tokens' and those before, None at the beginning.
  """

  def group(x: Array, weights: Params, past: Any = None) -> tuple[Array, Any]:
    kept = {}
    for i, kind in enumerate(config.group):
      layer, before = weights[member(i)], None if past is None else past[member(i)]
      h = rms_norm(x, layer["input_norm"], config.eps, centered=config.gated)
      if kind == "delta":
        y, kept[member(i)] = delta(layer["delta"], h, before)
      else:
        q, k, v, gate = _project(config, layer["attention"], h, angles)
        kept[member(i)] = all_keys = behind({"k": k, "v": v}, before)
        y = _output(layer["attention"], attend(q, all_keys["k"], all_keys["v"], mask), gate)
      x = _feed_forward(config, layer, x + y)
    return x, kept

  return group


def _project(
  config: TextConfig, weights: Params, x: Float[Array, "B T D"], angles: Float[Array, "B T R"]
) -> tuple[Array, Array, Array, Array | None]:
  """Turned q and k, v, and what the output is gated by."""
  batch, tokens, _ = x.shape
  q = linear(x, weights["q"]).reshape(batch, tokens, config.heads, -1)
  k, v = (linear(x, weights[name]).reshape(batch, tokens, config.kv_heads, config.head_dim) for name in "kv")
  gate = None
  if config.gated:  # each head's gate lies behind its query
    gate = q[..., config.head_dim :].reshape(batch, tokens, -1)
    q = rms_norm(q[..., : config.head_dim], weights["q_norm"], config.eps, centered=True)
    k = rms_norm(k, weights["k_norm"], config.eps, centered=True)
  return rotate(q, angles), rotate(k, angles), v, gate


def _output(weights: Params, read: Float[Array, "B T HD"], gate: Array | None) -> Float[Array, "B T D"]:
  if gate is not None:
    read = read * jax.nn.sigmoid(gate.astype(jnp.float32)).astype(read.dtype)
  return linear(read, weights["o"])


def _feed_forward(config: TextConfig, layer: Params, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
  return x + gated_mlp(rms_norm(x, layer["mlp_norm"], config.eps, centered=config.gated), layer["mlp"])
