"""The short causal convolution before the gated delta rule. On a mesh, time is cut with a halo of its last tokens."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels import layout


def short_convolution(
  x: Float[Array, "B T H D"],
  taps: Float[Array, "N H D"],
  past: Float[Array, "B N H D"],
  *,
  tokens: int | None = None,
) -> tuple[Float[Array, "B T H D"], Float[Array, "B N H D"]]:
  """Each channel's weighted sum over its last N tokens.

  Args:
    x: of T tokens; heads lie on an axis of their own, as they do on a mesh.
    taps: weights, the latest token's last.
    past: the N tokens before the first.
    tokens: how many of T are no padding, which lies at the end; None: all.

  Returns:
    The sums, and the last N tokens that are no padding.
  """
  count, real = taps.shape[0], x.shape[1] if tokens is None else tokens
  mesh = layout.current(batch=x.shape[0], heads=x.shape[2], time=x.shape[1])

  def whole(x, taps, past):
    joined = jnp.concatenate([past, x], axis=1)
    return _weigh(joined, taps), joined[:, real : real + count]

  if mesh is None or x.shape[1] // mesh.devices < count:
    return whole(x, taps, past)

  def share(x, taps, past):
    if not mesh.time:
      return whole(x, taps, past)
    (axis,), rank, own = mesh.time, jax.lax.axis_index(mesh.time[0]), x.shape[1]
    received = jax.lax.ppermute(x[:, -count:], axis, [(i, i + 1) for i in range(mesh.devices - 1)])
    joined = jnp.concatenate([jnp.where(rank == 0, past, received), x], axis=1)
    # The device with the last real token has all the last N, for a share and what comes before it is longer.
    last = jnp.where(rank == (real - 1) // own, joined[:, (real - 1) % own + 1 :][:, :count], 0)
    return _weigh(joined, taps), jax.lax.psum(last, axis)

  tokens_spec, memory = mesh.spec("bth."), mesh.spec("b.h.")
  specs = (tokens_spec, mesh.spec(".h."), memory)
  return jax.shard_map(share, in_specs=specs, out_specs=(tokens_spec, memory), check_vma=False)(x, taps, past)


def _weigh(joined: Float[Array, "B S H D"], taps: Float[Array, "N H D"]) -> Float[Array, "B T H D"]:
  count = taps.shape[0]
  length = joined.shape[1] - count
  first = joined[:, 1 : 1 + length] * taps[0]
  return sum((joined[:, i + 1 : i + 1 + length] * taps[i] for i in range(1, count)), first)
