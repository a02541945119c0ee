"""A stream that feeds on its own imagination: what becomes of its state, of what it knew, and of its pictures."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib.axes import Axes

from kairos_jax.evaluation.intervals import Interval
from kairos_jax.model.memory import require_constant_size
from kairos_jax.probing import draw, layers
from kairos_jax.probing.decode import decode
from kairos_jax.probing.record import step
from kairos_jax.runtime import Stream, WorldModel
from kairos_jax.runtime.world_model import check_count, seed_words


@dataclasses.dataclass(frozen=True)
class Drift:
  """B streams over T imagined latent frames.

  Attributes:
    latents_per_second: the streams' clock.
    norm: Frobenius norm of each delta net's state, all heads together, by layer.
    at: the latent frames, counted from 0, of which `out` and `latents` are kept.
    out: the outputs of all layers but the last, side by side: what a later layer or an action can read.
    latents: what was imagined.
  """

  latents_per_second: float
  norm: dict[int, Float[np.ndarray, "T B"]]
  at: tuple[int, ...]
  out: Float[np.ndarray, "N B F"]
  latents: Float[np.ndarray, "N B h w C"]

  @property
  def seconds(self) -> Float[np.ndarray, "N"]:
    """The kept moments."""
    return (np.array(self.at) + 1) / self.latents_per_second

  def known(self, labels: Int[np.ndarray, "B"], groups: Int[np.ndarray, "B"]) -> list[Interval]:
    """How often a linear probe of `out`, fitted anew at each kept moment, names a held-out stream's label."""
    return [decode({0: out}, labels, groups).accuracy[0] for out in self.out]

  def plot(self, axes: Axes | None = None) -> Axes:
    """The states' norms over the seconds of imagination, the mean of the streams."""
    panel = draw.panel(axes, "seconds of imagination", "Frobenius norm of the state")
    for number, norm in self.norm.items():
      panel.plot(np.arange(1, len(norm) + 1) / self.latents_per_second, norm.mean(axis=1), label=f"layer {number}")
    return draw.legend(panel)


def drift(model: WorldModel, stream: Stream, at: Sequence[int], *, seed: int = 0, steps: int = 3) -> Drift:
  """Imagines one latent frame after the other, each of which becomes history of the next.

  Args:
    model: with a memory of constant size.
    stream: where they begin; stays as it is.
    at: latent frames that are kept, ascending; the last is where it ends.
    seed: of the noise.
    steps: denoising steps.

  Raises:
    KairosError: as `imagine_latents`, or the memory grows with the video.
  """
  require_constant_size(model.saved.model_config)
  check_count("steps", steps)
  count = at[-1] + 1
  check_count("latent frames", count)
  slots = np.full(count, len(at), np.int32)  # where a frame is kept; beyond the last: nowhere
  slots[list(at)] = np.arange(len(at))
  norms, out, latents = _run(model, steps, len(at), model.params, stream, seed_words(seed, stream.batch), slots)
  config = model.saved.model_config.video
  return Drift(
    latents_per_second=model.saved.video_fps / model.codec.time_stride,
    norm=layers.by_number(config, norms, 1),
    at=tuple(at),
    out=np.asarray(out),
    latents=np.asarray(latents),
  )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(model: WorldModel, steps: int, kept: int, params: Any, stream: Stream, words: Array, slots: Int[Array, "T"]):
  """The states' norms [T G B] by layer name, and the outputs and latents that are kept."""
  config = model.saved.model_config.video
  below = [layers.place(config, layer) for layer in range(len(config.layers) - 1)]

  def seen(stream, index):
    noise = words.at[:, 1].add(jnp.uint32(0x9E3779B9) * index.astype(jnp.uint32))  # of each frame its own
    latent = model.foresee(params, stream, noise, count=1, steps=steps)[:, 0]
    memory, inside = step(model, params, stream.memory, latent, stream.context)
    outs = [inside[name]["out"][0][group] for group, name in below]
    out = jnp.concatenate([x.reshape(x.shape[0], -1) for x in outs], axis=1)
    return dataclasses.replace(stream, memory=memory), (out, latent)

  def one(carried, given):
    (stream, store), (index, slot) = carried, given
    stream, found = seen(stream, index)
    store = jax.tree.map(lambda x, new: x.at[slot].set(new, mode="drop"), store, found)
    delta = stream.memory.delta
    return (stream, store), {name: jnp.sqrt(jnp.square(s.matrix).sum(axis=(-3, -2, -1))) for name, s in delta.items()}

  shapes = jax.eval_shape(seen, stream, slots[0])[1]
  store = jax.tree.map(lambda x: jnp.zeros((kept, *x.shape), x.dtype), shapes)
  (_, store), norms = jax.lax.scan(one, (stream, store), (jnp.arange(len(slots)), slots))
  return norms, *store
