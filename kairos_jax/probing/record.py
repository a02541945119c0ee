"""What a tower computes while a stream runs: each layer's output, gates, keys and states, latent frame after frame."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes

from kairos_jax.interfaces import Context
from kairos_jax.model import Memory
from kairos_jax.model.memory import require_constant_size
from kairos_jax.probing import draw, layers
from kairos_jax.runtime import Stream, WorldModel
from kairos_jax.runtime.world_model import Frames


@dataclasses.dataclass(frozen=True)
class Recording:
  """One run of B streams over T latent frames of L tokens; layers are named by their number in the tower.

  Attributes:
    kinds: of every layer.
    latents_per_second: the streams' clock.
    out: every layer's output.
    log_decay, beta: the gated delta nets' gates, token by token.
    key: their normalized keys.
    value: what they write.
    state: their matrices after each latent frame.
    stream: after the last frame.
  """

  kinds: tuple[str, ...]
  latents_per_second: float
  out: dict[int, Float[np.ndarray, "T B L D"]]
  log_decay: dict[int, Float[np.ndarray, "T B L H"]]
  beta: dict[int, Float[np.ndarray, "T B L H"]]
  key: dict[int, Float[np.ndarray, "T B L H K"]]
  value: dict[int, Float[np.ndarray, "T B L H V"]]
  state: dict[int, Float[np.ndarray, "T B H K V"]]
  stream: Stream

  def plot(self, axes: Axes | None = None) -> Axes:
    """How large each delta net's state is, over time; the mean of the streams."""
    panel = draw.panel(axes, "seconds", "Frobenius norm of the state")
    for number, state in self.state.items():
      norm = np.sqrt(np.square(state).sum(axis=(-3, -2, -1))).mean(axis=1)
      panel.plot(np.arange(1, len(norm) + 1) / self.latents_per_second, norm, label=f"layer {number}")
    return draw.legend(panel)


@dataclasses.dataclass(frozen=True)
class HalfLives:
  """After how long a head has forgotten half of what it held, s; by layer.

  Attributes:
    seconds: from the decay alone. What is overwritten is forgotten sooner.
  """

  seconds: dict[int, Float[np.ndarray, "H"]]

  def plot(self, axes: Axes | None = None) -> Axes:
    """A dot for each head, on a logarithmic axis."""
    panel = draw.panel(axes, "layer", "half-life, s")
    for number, values in self.seconds.items():
      panel.semilogy(np.full(len(values), number), values, "o", alpha=0.7)
    panel.set_xticks(list(self.seconds))
    return panel


def record(model: WorldModel, frames: Frames, instruction: str | Sequence[str]) -> Recording:
  """Runs streams over frames, one latent frame after the other, and keeps what the video tower computes.

  The recorded streams are those of `prefill` with the first latent's frames and `extend` with each next one's.

  Args:
    model: with a memory of constant size.
    frames: uint8, whole latents' worth.
    instruction: for all episodes, or one each.

  Raises:
    KairosError: as `WorldModel.prefill`, or the memory grows with the video.
  """
  require_constant_size(model.saved.model_config)
  frames = model.batched(frames)
  begin = model.prefill(frames[:, : model.codec.first_frames], instruction)
  latents, codec = jax.jit(model.codec.encode)(model.params["codec"], frames)
  memory, kept, states = _run(model, model.params, latents, begin.context)
  config = model.saved.model_config.video
  found = {name: _series(layers.by_number(config, kept, 1), name) for name in ("out", "log_decay", "beta", "k", "v")}
  return Recording(
    kinds=config.layers,
    latents_per_second=model.saved.video_fps / model.codec.time_stride,
    out=found["out"],
    log_decay=found["log_decay"],
    beta=found["beta"],
    key=found["k"],
    value=found["v"],
    state={number: state.matrix for number, state in layers.by_number(config, states, 1).items()},
    stream=dataclasses.replace(begin, memory=memory, codec=codec),
  )


def half_life(recording: Recording) -> HalfLives:
  """From the gates' mean logarithm over streams and time: ln 2 over the decay in a second."""
  return HalfLives(
    {
      number: np.log(2) / -(decay.sum(axis=2).mean(axis=(0, 1)) * recording.latents_per_second)
      for number, decay in recording.log_decay.items()
    }
  )


def step(
  model: WorldModel, params: dict[str, Any], memory: Memory | None, latent: Float[Array, "B h w C"], context: Context
) -> tuple[Memory, dict[str, Any]]:
  """One latent frame: the memory after it, and {layer name: intermediates [G B ...]}."""
  memory, kept = model.model.apply(
    {"params": params}, memory, latent[:, None], context, method="extend", mutable=["intermediates"]
  )
  return memory, jax.tree.map(lambda x: x, kept["intermediates"]["video"]["groups"])


@functools.partial(jax.jit, static_argnums=0)  # compiled once for a model and the shape of its frames
def _run(model: WorldModel, params: dict[str, Any], latents: Float[Array, "B T h w C"], context: Context):
  def one(memory, latent):
    memory, kept = step(model, params, memory, latent, context)
    return memory, (kept, memory.delta)

  memory, first = one(None, latents[:, 0])
  memory, rest = jax.lax.scan(one, memory, jnp.moveaxis(latents[:, 1:], 1, 0))
  kept, states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
  return memory, kept, states


def _series(kept: dict[int, Any], name: str) -> dict[int, np.ndarray]:
  """One intermediate of each layer that has it. A frame's axis of length 1 goes; a delta net's tokens have none."""
  series = {}
  for number, values in kept.items():
    where = values if name == "out" else values.get("gated_delta", {})
    if name in where:
      (value,) = where[name]
      series[number] = value[:, :, 0] if name == "out" else value
  return series
