"""A model of any shape with random weights, to try probes on: its pictures and words are those of a small model."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import embodiments
from data_pipelines.normalize import EmbodimentNormalizer, Normalizer
from kairos_jax import assembly
from kairos_jax.errors import KairosError
from kairos_jax.interfaces import Context
from kairos_jax.interop.saved_model import SavedModel
from kairos_jax.model import WorldActionConfig, WorldActionModel, random_weights
from kairos_jax.model.memory import require_constant_size
from kairos_jax.runtime import WorldModel


class Need(NamedTuple):
  """Bytes that a probe of a model takes.

  Attributes:
    weights: all parameters.
    stream: the memories of the streams.
    working: the largest group of layers in float32, which a CPU computes in, of both towers.
  """

  weights: int
  stream: int
  working: int

  def __str__(self) -> str:
    parts = (f"{name} {size / 1e9:.2g} GB" for name, size in self._asdict().items())
    return f"{sum(self) / 1e9:.2g} GB: {', '.join(parts)}"


def need(config: WorldActionConfig, size: int, streams: int = 1) -> Need:
  """What a model of this shape will take, before anything is made.

  Args:
    config: with an action tower and a memory of constant size.
    size: of the pictures, pixels; a multiple of 16.
    streams: at once.

  Raises:
    KairosError: the memory grows with the video.
  """
  require_constant_size(config)
  shapes = random_weights.shapes_of(config)
  side, text = size // 8, config.video.text_dim
  latents = jax.ShapeDtypeStruct((streams, 1, side, side, config.video.channels), jnp.float32)
  context = Context(jax.ShapeDtypeStruct((streams, 8, text), jnp.float32))
  memory = jax.eval_shape(
    lambda p, x, c: WorldActionModel(config).apply({"params": p}, None, x, c, method="extend"), shapes, latents, context
  )
  groups = sum(_count(shapes[tower]["groups"]) for tower in shapes) // config.video.groups
  return Need(_bytes(shapes), _bytes(memory), 4 * groups)


def blank(config: WorldActionConfig, size: int, seed: int = 0) -> WorldModel:
  """A model of this shape, its towers' weights random and of the type that `config.video.dtype` names.

  Args:
    config: with an action tower.
    size: of the pictures, pixels; a multiple of 16.
    seed: of the weights.

  Raises:
    KairosError: no embodiment has as many actions and states as the action tower, or a size that is not allowed.
  """
  action = config.action
  if action is None or size % 16 or size < 16:
    raise KairosError(f"blank: pictures of {size} pixels; allowed: multiples of 16, and a config with an action tower")
  rng = np.random.default_rng(seed)
  encoder = assembly.make_encoder(dict(kind="words", vocabulary=64, tokens=8, dim=8, text_dim=config.video.text_dim))
  codec = assembly.make_codec(dict(kind="pca", channels=config.video.channels))
  noise = (rng.integers(0, 256, (9, size, size, 3), np.uint8) for _ in range(4))
  return WorldModel(
    SavedModel(
      model_config=config,
      codec=codec,
      encoder=encoder,
      params={
        **random_weights.draw(config, seed),
        "bridge": encoder.init(jax.random.key(seed)),
        "codec": codec.fit(noise, seed, lambda done: None),
      },
      video_fps=10.0,
      frame_size=(size, size),
      clip_frames=9,
      action_horizon=4,
      embodiments=_robot(action.state_dim, action.action_dim),
    )
  )


def _robot(states: int, actions: int) -> dict[str, EmbodimentNormalizer]:
  for name in embodiments.NAMES:
    robot = embodiments.get(name)
    if (len(robot.state), len(robot.action)) == (states, actions):
      identity = [Normalizer("none", np.zeros(n, np.float32), np.ones(n, np.float32)) for n in (states, actions)]
      return {name: EmbodimentNormalizer(robot, state=identity[0], action=identity[1])}
  raise KairosError(f"blank: no embodiment has {states} states and {actions} actions")


def _count(tree: Any) -> int:
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def _bytes(tree: Any) -> int:
  return sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))
