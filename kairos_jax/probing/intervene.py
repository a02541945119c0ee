"""Another memory, or a tower without a part of it: what changes then was carried by that part."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from kairos_jax.errors import KairosError
from kairos_jax.probing import layers as layers_lib
from kairos_jax.runtime import Stream, WorldModel

Part = Literal["window", "delta", "action"]
PARTS: tuple[Part, ...] = ("window", "delta", "action")


def transplant(
  stream: Stream,
  donor: Stream,
  model: WorldModel,
  *,
  layers: Sequence[int] | None = None,
  parts: Sequence[Part] = PARTS,
) -> Stream:
  """`stream` with the donor's memory, wholly or of some layers; context and codec stay its own.

  Args:
    stream, donor: of the same number of episodes, which have seen as many frames.
    model: of both.
    layers: by number; None is all.
    parts: keys and values inside the windows, the delta nets' states, and the frames that actions read.

  Raises:
    KairosError: an unknown layer or part, or clocks that differ, for keys carry their frame's position.
  """
  if unknown := sorted(set(parts) - set(PARTS)):
    raise KairosError(f"transplant parts {unknown}; allowed: {', '.join(PARTS)}")
  clocks = [np.asarray(s.memory.position).tolist() for s in (stream, donor)]
  if clocks[0] != clocks[1]:
    raise KairosError(f"transplant between streams at frames {clocks[0]} and {clocks[1]}; they must be equal")
  config = model.saved.model_config.video
  memory = stream.memory
  for layer in range(len(config.layers)) if layers is None else layers:
    group, name = layers_lib.place(config, layer)
    for part in parts:
      mine, theirs = getattr(memory, part), getattr(donor.memory, part)
      if name in mine:
        moved = jax.tree.map(lambda x, y, g=group: x.at[g].set(y[g]), mine[name], theirs[name])
        memory = dataclasses.replace(memory, **{part: {**mine, name: moved}})
  return dataclasses.replace(stream, memory=memory)


def silence(
  model: WorldModel,
  layer: int,
  *,
  heads: Sequence[int] | None = None,
  directions: Float[np.ndarray, "N HV"] | None = None,
) -> WorldModel:
  """The model without what a layer's self-attention or delta net adds: all of it, some heads', or a subspace's.

  Args:
    model: stays as it is.
    layer: its number.
    heads: whose readouts are taken away; None, without `directions`: all.
    directions: of the heads' readouts side by side; their span is taken away.

  Raises:
    KairosError: an unknown layer or head, directions of another width, or both ways at once.
  """
  config = model.saved.model_config.video
  group, name = layers_lib.place(config, layer)
  module, matrix = ("gated_delta", "o_proj") if config.layers[layer] == "GATED" else ("self_attn", "o")
  kernel = np.asarray(model.params["video"]["groups"][name][module][matrix]["kernel"][group], np.float64)
  if heads is not None and directions is not None:
    raise KairosError("silence takes heads or directions, not both")
  if directions is not None:
    if np.ndim(directions) != 2 or np.shape(directions)[1] != len(kernel):
      raise KairosError(f"directions are {np.shape(directions)}; this layer's are [N, {len(kernel)}]")
    basis = np.linalg.qr(np.asarray(directions, np.float64).T)[0]
    kernel = kernel - basis @ (basis.T @ kernel)
  else:
    chosen = range(config.heads) if heads is None else heads
    if any(not 0 <= head < config.heads for head in chosen):
      raise KairosError(f"heads {list(chosen)}; this layer has the heads 0 to {config.heads - 1}")
    by_head = kernel.reshape(config.heads, -1, kernel.shape[-1])
    by_head[list(chosen)] = 0

  def replaced(path, leaf):
    keys = [key.key for key in path]
    if keys != ["video", "groups", name, module, matrix, "kernel"]:
      return leaf
    return jnp.asarray(leaf).at[group].set(kernel.astype(leaf.dtype))

  params = jax.tree.map_with_path(replaced, model.params)
  return WorldModel(dataclasses.replace(model.saved, params=params))
