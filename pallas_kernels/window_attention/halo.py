"""Which frames of other devices a device's queries may see, where time is cut into equal shards.

Only those are sent: of a sliding window the few frames beyond each end, of a dilated one those of the right phase. What
is sent depends on the rule alone, never on how long the clip is, unless a layer sees all frames.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pallas_kernels.window_attention.visibility import MaskRule


class Hop(NamedTuple):
  """The frames of the device `distance` further along that a device wants, by their index on that device."""

  distance: int
  frames: tuple[int, ...]


class Halo(NamedTuple):
  """What a device wants besides its own frames; `back` and `ahead` are how far the farthest of it lies."""

  hops: tuple[Hop, ...]
  back: int
  ahead: int


@functools.lru_cache(maxsize=256)
def make_halo(rule: MaskRule, frames: int, devices: int, earlier: int = 0) -> Halo:
  """The halo of `devices` that hold `frames` each, after `earlier` frames that all of them hold (a memory).

  How much is history is not known before the program runs: what any history lets a query see is in it.
  """
  whole = rule.window_size is None or rule.all_see_history

  def wanted(distance: int) -> tuple[int, ...]:
    seen = rule.near(np.arange(frames)[:, None], distance * frames + np.arange(frames)[None]).any(axis=0)
    return tuple(f for f in range(frames) if whole or seen[f])

  distances = [distance for distance in range(1 - devices, devices) if distance]
  hops = tuple(Hop(distance, wanted(distance)) for distance in distances)
  hops = tuple(hop for hop in hops if hop.frames)
  places = [hop.distance * frames + f for hop in hops for f in hop.frames]
  back, ahead = max(0, -min(places, default=0)), max(0, max(places, default=0) - frames + 1)
  if whole:
    back = (devices - 1) * frames + earlier
  elif rule.window_size is not None:
    back = max(back, min(earlier, (rule.window_size - 1) * rule.dilation))
  return Halo(hops, back, ahead)


def gather(x: Float[Array, "B F L H D"], halo: Halo, axis: str, devices: int) -> Float[Array, "B G L H D"]:
  """This device's frames with those of the halo around them, inside a `shard_map`; zeros where nothing is wanted."""
  frames = x.shape[1]
  at: dict[int, Array] = {}
  for distance, wanted in halo.hops:
    sent = jnp.concatenate([x[:, run] for run in _runs(wanted)], axis=1)
    pairs = [(source, source - distance) for source in range(devices) if 0 <= source - distance < devices]
    received = jax.lax.ppermute(sent, axis, pairs)
    at |= {distance * frames + f: received[:, i : i + 1] for i, f in enumerate(wanted)}
  nothing = jnp.zeros_like(x[:, :1])
  before = [at.get(place, nothing) for place in range(-halo.back, 0)]
  after = [at.get(place, nothing) for place in range(frames, frames + halo.ahead)]
  return jnp.concatenate([*before, x, *after], axis=1)


def _runs(indices: tuple[int, ...]) -> Iterator[slice]:
  """Neighboring indices as slices."""
  for _, run in itertools.groupby(enumerate(indices), lambda pair: pair[1] - pair[0]):
    found = [index for _, index in run]
    yield slice(found[0], found[-1] + 1)
