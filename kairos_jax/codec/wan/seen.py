"""The latents that a stream has encoded, kept so that its decoder can go on from them when it is asked to.

A robot that acts encodes every frame and decodes none, so the decoder does not follow by itself. Its layers look back
a limited number of latents: with so many of the last ones it can be brought to where it would have been, exactly.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# "latents": the last ones, zeros before the first, [B W h w C]; "count": of all, at most W + 1, [B].
Seen = dict[str, Any]
Decode = Callable[[Float[Array, "B 1 h w C"], Any], tuple[Array, Any]]


def add(seen: Seen | None, latents: Float[Array, "B N h w C"], window: int) -> Seen:
  """What was seen with new latents behind it; None begins."""
  if seen is None:
    seen = {
      "latents": jnp.zeros((latents.shape[0], window, *latents.shape[2:]), latents.dtype),
      "count": jnp.zeros(latents.shape[0], jnp.int32),
    }
  last = jnp.concatenate([seen["latents"], latents], axis=1)[:, -window:]
  return {"latents": last, "count": jnp.minimum(seen["count"] + latents.shape[1], window + 1)}


def catch_up(decode: Decode, seen: Seen) -> Any:
  """What the decoder's layers keep after all latents that were seen; its frames are not kept."""
  latents, count = seen["latents"], seen["count"]
  window = latents.shape[1]
  start = window - jnp.minimum(count, window)
  first = jnp.take_along_axis(latents, start[:, None, None, None, None], axis=1)
  _, begun = decode(first, None)
  # Where the beginning has left the window, what it did no longer matters.
  kept = _where(count <= window, begun, jax.tree.map(jnp.zeros_like, begun))
  begins = start + (count <= window)

  def step(i, kept):
    _, after = decode(jax.lax.dynamic_slice_in_dim(latents, i, 1, axis=1), kept)
    return _where(i >= begins, after, kept)

  return jax.lax.fori_loop(jnp.min(begins), window, step, kept)


def _where(rows: Bool[Array, "B"], yes: Any, no: Any) -> Any:
  return jax.tree.map(lambda a, b: jnp.where(rows.reshape(-1, *(1,) * (a.ndim - 1)), a, b), yes, no)
