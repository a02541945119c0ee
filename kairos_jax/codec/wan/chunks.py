"""A video through one of the networks: chunk after chunk, or on a mesh the shares of all devices side by side."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Shaped

from kairos_jax.codec.wan.layers import History, Kept, Neighbor, Params
from pallas_kernels import layout

Network = Callable[[Params, Array, History], Array]  # frames of some latents -> those latents, or the other way round


def one(network: Network, params: Params, x: Array, kept: Kept | None) -> tuple[Array, Kept]:
  """A chunk after the one that left `kept`; None begins a video, with one frame or latent."""
  history = History(kept)
  return network(params, x, history), history.kept


def through(
  network: Network, params: Params, x: Shaped[Array, "B T H W C"], size: int, kept: Kept | None
) -> tuple[Float[Array, "B S ..."], Kept]:
  """All chunks of a video, and what the last one left.

  Where a video begins (`kept` None), a chunk of one frame or latent goes before the others. They follow one another in
  one compiled loop. Where devices share time and each has enough of it, they all compute at once, layer by layer.

  Args:
    size: frames of the input that make up a chunk, which is one latent.
  """
  first = None
  if kept is None:
    first, kept = one(network, params, x[:, :1], None)
    x = x[:, 1:]
    if not x.shape[1]:
      return first, kept
  devices = layout.devices_along(layout.TIME)
  latents = -(-x.shape[1] // (size * devices))
  if devices > 1 and latents > 1:  # no layer looks back farther than two latents of its own
    y, kept = _side_by_side(network, params, x, size, kept, devices, latents)
  else:
    y, kept = _one_by_one(network, params, x, size, kept)
  return (y if first is None else jnp.concatenate([first, y], axis=1)), kept


def _one_by_one(network: Network, params: Params, x: Array, size: int, kept: Kept) -> tuple[Array, Kept]:
  chunks = jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)

  def step(kept: Kept, chunk: Array) -> tuple[Kept, Array]:
    y, kept = one(network, params, chunk, kept)
    return kept, y

  kept, y = jax.lax.scan(step, kept, chunks)
  y = jnp.moveaxis(y, 0, 1)
  return y.reshape(y.shape[0], -1, *y.shape[3:]), kept


def _side_by_side(
  network: Network, params: Params, x: Array, size: int, kept: Kept, devices: int, latents: int
) -> tuple[Array, Kept]:
  """Every device has so many latents; the last devices have some that are padding."""
  count = x.shape[1] // size
  x = jnp.pad(x, [(0, latents * devices * size - x.shape[1]) if axis == 1 else (0, 0) for axis in range(x.ndim)])

  def share(params: Params, x: Array, kept: Kept) -> tuple[Array, Kept]:
    rank = jax.lax.axis_index(layout.TIME)
    history = Neighbor(kept, layout.TIME, devices, latents, jnp.clip(count - rank * latents, 0, latents))
    y = network(params, x, history)
    ends = rank == (count - 1) // latents
    return y, tuple(jax.lax.psum(jnp.where(ends, left, 0), layout.TIME) for left in history.kept)

  cut, whole = PartitionSpec(None, layout.TIME), PartitionSpec()
  call = jax.shard_map(
    share, axis_names={layout.TIME}, in_specs=(whole, cut, whole), out_specs=(cut, whole), check_vma=False
  )
  y, kept = call(params, x, kept)
  return y[:, : count * (y.shape[1] // (latents * devices))], kept
