"""How far back an output looks: by the shape of the tower, and by its gradient at each past frame."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes

from kairos_jax.errors import KairosError
from kairos_jax.model import WorldActionConfig
from kairos_jax.model.memory import require_constant_size
from kairos_jax.probing import draw
from kairos_jax.runtime import Stream, WorldModel
from kairos_jax.runtime.world_model import Frames, seed_words

Output = Literal["action", "video"]


@dataclasses.dataclass(frozen=True)
class Reach:
  """How much an output depends on each latent frame that was seen, the latest last.

  Attributes:
    gradient: root mean square, over random directions of the output, of the gradient's norm at the frame.
    computed: how many latent frames before the latest the tower can reach at all; infinity with a memory.
    latents_per_second: of the frames.
  """

  gradient: Float[np.ndarray, "B T"]
  computed: float
  latents_per_second: float

  def plot(self, axes: Axes | None = None) -> Axes:
    """The gradient over seconds into the past, and the line beyond which it has to be zero."""
    panel = draw.panel(axes, "seconds into the past", "gradient")
    ago = np.arange(self.gradient.shape[1])[::-1] / self.latents_per_second
    panel.semilogy(ago, np.where(self.gradient > 0, self.gradient, np.nan).T, marker=".")
    if math.isfinite(self.computed):
      panel.axvline((self.computed + 0.5) / self.latents_per_second, linestyle="--", color="gray", label="reach")
    return draw.legend(panel)


def video_reach(config: WorldActionConfig) -> float:
  """How many latent frames before the latest one the next frame's velocity can depend on; infinity: on all.

  Windows with anchors count as without end, though of what is beyond the windows they see the anchors alone.
  """
  return sum(_views(config)) - 1


def action_reach(config: WorldActionConfig) -> float:
  """How many latent frames before the latest one an action can depend on; infinity: on all.

  Actions read keys and values of their `video_frames` latest frames in every attention layer. A layer's keys come from
  the layers below it, each of which looks further back by its window.

  Raises:
    KairosError: the model has no action tower.
  """
  if config.action is None:
    raise KairosError("this model has no action tower: only the reach of its video can be asked for")
  read = math.inf if config.action.video_frames is None else config.action.video_frames - 1
  views = _views(config)
  below = [sum(views[:i]) for i, kind in enumerate(config.video.layers) if kind != "GATED"]
  return read + max(below) if below else -math.inf


def reach(
  model: WorldModel,
  frames: Frames,
  instruction: str | Sequence[str],
  state: Float[np.ndarray, "B S"] | None = None,
  *,
  of: Output = "action",
  directions: int = 4,
  steps: int = 3,
  seed: int = 0,
) -> Reach:
  """The gradient of the next actions, or of the next latent frame, at every latent frame that a stream has seen.

  Args:
    model: with a memory of constant size.
    frames: what the streams have seen, uint8.
    instruction: for all episodes, or one each.
    state: the robot's, in its own units; for actions.
    of: which output.
    directions: of the output, drawn at random, that are averaged over.
    steps: denoising steps.
    seed: of the noise and the directions.

  Raises:
    KairosError: as `prefill` and `act`, or the memory grows with the video.
  """
  require_constant_size(model.saved.model_config)
  frames = model.batched(frames)
  begin = model.prefill(frames[:, : model.codec.first_frames], instruction)
  latents, _ = jax.jit(model.codec.encode)(model.params["codec"], frames)
  words = seed_words(seed, begin.batch)
  given: dict[str, Any] = {}
  if of == "action":
    robot = model.robot(None)
    if state is None:
      raise KairosError("reach of actions needs the robot's state")
    given["state"], given["mask"] = model.normal_states(np.atleast_2d(state).astype(np.float32), begin.batch, robot)
    given["own"] = model.own_actions(robot, begin.batch)
  computed = action_reach(model.saved.model_config) if of == "action" else video_reach(model.saved.model_config)
  keys = jax.random.split(jax.random.key(seed), directions)
  squares = _squares(model, of, steps, model.params, latents, begin, words, given, keys)
  return Reach(np.sqrt(np.asarray(squares)), computed, model.saved.video_fps / model.codec.time_stride)


def _views(config: WorldActionConfig) -> list[float]:
  video = config.video
  views = [None if kind == "GATED" or video.anchors else video.frames_in_view(kind) for kind in video.layers]
  return [math.inf if view is None else view for view in views]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _squares(
  model: WorldModel, of: Output, steps: int, params: Any, latents: Array, begin: Stream, words: Array, given: Any, keys
) -> Float[Array, "B T"]:
  """Mean squared norm of the gradient at each frame, over directions."""

  def output(latents):
    start = model.model.apply({"params": params}, None, latents[:, :1], begin.context, method="extend")
    stream = dataclasses.replace(begin, memory=start)
    each = jnp.moveaxis(latents[:, 1:], 1, 0)[:, :, None]
    stream, _ = jax.lax.scan(lambda s, latent: (model.remember(params, s, latent), None), stream, each)
    if of == "action":
      return model.decide(params, stream, given["state"], given["mask"], given["own"], words, steps=steps)
    return model.foresee(params, stream, words, count=1, steps=steps)

  out, back = jax.vjp(output, latents)

  def along(key):
    direction = jax.random.normal(key, out.shape)
    # One unit vector for each episode, so that episodes do not mix.
    direction = direction / jnp.sqrt(jnp.square(direction).sum(axis=tuple(range(1, out.ndim)), keepdims=True))
    return jnp.square(back(direction)[0]).sum(axis=(2, 3, 4))

  return jax.lax.map(along, keys).mean(axis=0)
