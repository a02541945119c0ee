"""A known error in one layer's state, or one that comes again with every frame, followed through state and outputs."""

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
from kairos_jax.runtime.world_model import seed_words

STEPS = 3  # denoising steps of a chunk


@dataclasses.dataclass(frozen=True)
class Followed:
  """The difference that an error makes, after each of T latent frames.

  Attributes:
    out: norm of the difference of the last layer's output.
    action: norm of the difference of the chunk of actions that would be decided then, in the model's units; NaN where
      no robot's state was given.
    state: Frobenius norm of the difference of each head's matrix; entry 0 is the error itself.
    bound: what the decay alone leaves of the errors. The state's difference never exceeds it, because a correction
      along a key of length at most 1 shrinks or keeps it (docs/memory.md).
  """

  out: Float[np.ndarray, "T B"]
  action: Float[np.ndarray, "T B"]
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
  model: WorldModel,
  stream: Stream,
  latents: Float[Array, "B T h w C"],
  layer: int,
  size: float = 1.0,
  each: float = 0.0,
  state: Float[np.ndarray, "B S"] | None = None,
  seed: int = 0,
) -> Followed:
  """Adds a random matrix of Frobenius norm `size` to each head's state, and follows it over what comes next.

  Args:
    model: with a memory of constant size.
    stream: stays as it is.
    latents: that the streams see from now on.
    layer: number of a gated delta net.
    size: of the error; 0 changes nothing.
    each: of another one that is added after every latent frame.
    state: of the robots, in their units: then actions are followed too.
    seed: of the errors' directions.

  Raises:
    KairosError: the layer is no gated delta net, the error is negative, or the memory grows with the video.
  """
  require_constant_size(model.saved.model_config)
  config = model.saved.model_config.video
  group, name = layers.place(config, layer)
  if config.layers[layer] != "GATED":
    raise KairosError(f"layer {layer} is {config.layers[layer]}; those with a state are {layers.gated(config)}")
  if min(size, each) < 0:
    raise KairosError(f"an error of size {min(size, each)}: 0 or more")
  robot: tuple[Any, ...] | None = None
  if state is not None:
    normal = model.robot(None)
    own = model.own_actions(normal, stream.batch)
    robot = (*model.normal_states(np.asarray(state, np.float32), stream.batch, normal), own)
  after, sizes = jnp.moveaxis(latents, 1, 0), (size, each)
  found = _follow(model, group, name, model.params, stream, after, sizes, robot, jax.random.key(seed))
  return Followed(*map(np.asarray, found))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _follow(
  model: WorldModel, group: int, name: str, params: Any, stream: Stream, latents: Array, sizes: Any, robot: Any, key
):
  """The fields of `Followed`."""
  words = seed_words(0, stream.batch)

  def norm(x, y, axes):
    return jnp.sqrt(jnp.square(x - y).sum(axis=axes))

  def spoil(memory, size, key):
    old = memory.delta[name]
    error = jax.random.normal(key, old.matrix.shape[1:])
    error = size * error / jnp.sqrt(jnp.square(error).sum(axis=(-2, -1), keepdims=True))
    new = dataclasses.replace(old, matrix=old.matrix.at[group].add(error))
    return dataclasses.replace(memory, delta={**memory.delta, name: new})

  def decided(memory):
    state, mask, own = robot
    return model.decide(params, dataclasses.replace(stream, memory=memory), state, mask, own, words, steps=STEPS)

  def apart(memories):
    right, wrong = (m.delta[name].matrix[group] for m in memories)
    return norm(right, wrong, (-2, -1))

  def one(carried, given):
    (*memories, bound), (latent, key) = carried, given
    (right, kept), (wrong, other) = (step(model, params, m, latent, stream.context) for m in memories)
    last = max(kept, key=lambda layer: int(layer.rsplit("_", 1)[1]))
    outs = [k[last]["out"][0][-1] for k in (kept, other)]
    decay = jnp.exp(kept[name]["gated_delta"]["log_decay"][0][group].sum(axis=1))
    wrong, bound = spoil(wrong, sizes[1], key), decay * bound + sizes[1]
    action = jnp.full(stream.batch, jnp.nan) if robot is None else norm(decided(right), decided(wrong), (1, 2))
    return (right, wrong, bound), (norm(outs[0], outs[1], (1, 2, 3)), action, apart((right, wrong)), bound)

  wrong = spoil(stream.memory, sizes[0], key)
  first = apart((stream.memory, wrong))
  _, (out, action, state, bound) = jax.lax.scan(
    one, (stream.memory, wrong, first), (latents, jax.random.split(key, len(latents)))
  )
  return out, action, *(jnp.concatenate([first[None], x]) for x in (state, bound))
