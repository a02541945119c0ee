"""A known error in one layer's state, followed: how long the state and what is read from it remember it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes

from kairos_jax.errors import KairosError
from kairos_jax.model.memory import require_constant_size
from kairos_jax.probing import draw, layers
from kairos_jax.probing.record import step
from kairos_jax.runtime import Stream, WorldModel


@dataclasses.dataclass(frozen=True)
class Followed:
  """The difference that an error makes, after each of T latent frames.

  Attributes:
    out: norm of the difference of the last layer's output.
    state: Frobenius norm of the difference of each head's matrix; entry 0 is the error itself.
    bound: what the decay alone leaves of the error. The state's difference never exceeds it, because a correction
      along a key of length at most 1 shrinks or keeps it (docs/memory.md).
  """

  out: Float[np.ndarray, "T B"]
  state: Float[np.ndarray, "T+1 B H"]
  bound: Float[np.ndarray, "T+1 B H"]

  def plot(self, axes: Axes | None = None) -> Axes:
    """State and bound over latent frames, a color for each head, the mean over streams."""
    panel = draw.panel(axes, "latent frames since the error", "norm of the difference")
    for head in range(self.state.shape[2]):
      (line,) = panel.semilogy(self.state[:, :, head].mean(axis=1), label=f"head {head}")
      panel.semilogy(self.bound[:, :, head].mean(axis=1), linestyle="--", color=line.get_color())
    return draw.legend(panel)


def perturb(
  model: WorldModel, stream: Stream, latents: Float[Array, "B T h w C"], layer: int, size: float = 1.0, seed: int = 0
) -> Followed:
  """Adds a random matrix of Frobenius norm `size` to each head's state, and follows it over what comes next.

  Args:
    model: with a memory of constant size.
    stream: stays as it is.
    latents: that the streams see from now on.
    layer: number of a gated delta net.
    size: of the error; 0 changes nothing.
    seed: of the error's direction.

  Raises:
    KairosError: the layer is no gated delta net, the error is negative, or the memory grows with the video.
  """
  require_constant_size(model.saved.model_config)
  config = model.saved.model_config.video
  group, name = layers.place(config, layer)
  if config.layers[layer] != "GATED":
    raise KairosError(f"layer {layer} is {config.layers[layer]}; those with a state are {layers.gated(config)}")
  if size < 0:
    raise KairosError(f"an error of size {size}: 0 or more")
  run = jax.jit(functools.partial(_follow, model, group, name))
  state, decay, out = run(model.params, stream, jnp.moveaxis(latents, 1, 0), size, jax.random.key(seed))
  return Followed(np.asarray(out), np.asarray(state), np.asarray(decay) * np.asarray(state[:1]))


def _follow(model: WorldModel, group: int, name: str, params: Any, stream: Stream, latents: Array, size, key):
  matrix = stream.memory.delta[name].matrix
  error = jax.random.normal(key, matrix.shape[1:])
  error = size * error / jnp.sqrt(jnp.square(error).sum(axis=(-2, -1), keepdims=True))
  wrong = dataclasses.replace(stream.memory.delta[name], matrix=matrix.at[group].add(error))
  memories = (stream.memory, dataclasses.replace(stream.memory, delta={**stream.memory.delta, name: wrong}))

  def norm(x, y, axes):
    return jnp.sqrt(jnp.square(x - y).sum(axis=axes))

  def apart(memories):
    right, wrong = (m.delta[name].matrix[group] for m in memories)
    return norm(right, wrong, (-2, -1))

  def one(memories, latent):
    (right, kept), (wrong, other) = (step(model, params, m, latent, stream.context) for m in memories)
    last = max(kept, key=lambda layer: int(layer.rsplit("_", 1)[1]))
    outs = [k[last]["out"][0][-1] for k in (kept, other)]
    decay = jnp.exp(kept[name]["gated_delta"]["log_decay"][0][group].sum(axis=1))
    memories = (right, wrong)
    return memories, (apart(memories), decay, norm(outs[0], outs[1], (1, 2, 3)))

  first = apart(memories)
  _, (state, decay, out) = jax.lax.scan(one, memories, latents)
  return jnp.concatenate([first[None], state]), jnp.cumprod(jnp.concatenate([jnp.ones_like(decay[:1]), decay]), 0), out
