"""A whole world-action model that is as small as can be: untrained, but every weight is alive."""

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import embodiments
from data_pipelines.normalize import EmbodimentNormalizer, Normalizer
from kairos_jax import assembly
from kairos_jax.interop.saved_model import SavedModel
from kairos_jax.model import ActionConfig, VideoConfig, WorldActionConfig
from kairos_jax.model.world_action import init_params

SIZE = 16  # pixels
CHANNELS = 4


def model_config(layers=("SWA", "DSWA", "GATED"), video_frames=4) -> WorldActionConfig:
  """Towers of one layer group; memories are constant in size as long as `layers` has no FA."""
  shared = dict(ffn_dim=32, heads=2, freq_dim=16, text_dim=16)
  return WorldActionConfig(
    video=VideoConfig(
      dim=16, layers=layers, window_size=2, dilation=2, channels=CHANNELS, key_dim=8, value_dim=8, **shared
    ),
    action=ActionConfig(dim=16, attention_dim=16, action_dim=3, state_dim=3, video_frames=video_frames, **shared),
  )


def saved(config: WorldActionConfig | None = None, seed=0) -> SavedModel:
  """A model of random weights, made without compiling anything; a fresh model's heads are zero, these are not."""
  config = config or model_config()
  encoder = assembly.make_encoder(dict(kind="words", vocabulary=32, tokens=8, dim=8, text_dim=16))
  codec = assembly.make_codec(dict(kind="pca", channels=CHANNELS))
  shapes = {
    **jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0)),
    "bridge": jax.eval_shape(encoder.init, jax.random.key(0)),
  }
  rng = np.random.default_rng(seed)
  around_one = lambda path: float(path[-1].key == "scale")  # noqa: E731
  params = jax.tree.map_with_path(
    lambda path, x: jnp.asarray(around_one(path) + 0.2 * rng.standard_normal(x.shape, np.float32)), shapes
  )
  identity = Normalizer("none", np.zeros(3, np.float32), np.ones(3, np.float32))
  robot = EmbodimentNormalizer(embodiments.get("slide_arm"), state=identity, action=identity)
  return SavedModel(
    model_config=config,
    codec=codec,
    encoder=encoder,
    params={**params, "codec": codec.fit((frames(9, seed=i) for i in range(4)), 0)},
    video_fps=10.0,
    frame_size=(SIZE, SIZE),
    clip_frames=9,
    action_horizon=4,
    embodiments={"slide_arm": robot},
  )


def frames(count, size=SIZE, seed=0) -> np.ndarray:
  """A clip of noise, uint8 [count, size, size, 3]."""
  return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def batch(saved: SavedModel) -> dict:
  """Three clips of other lengths, texts and numbers of labeled actions."""
  rng = np.random.default_rng(1)
  return {
    "video": np.stack([frames(9, seed=seed) for seed in range(3)]),
    "length": np.array([9, 9, 5], np.int32),
    "tokens": saved.encoder.tokenize(["push the ball", "wait", ""]),
    "action": rng.standard_normal((3, 12, 3)).astype(np.float32),
    "action_mask": np.repeat((np.arange(12) < np.array([[12], [9], [2]]))[..., None], 3, axis=-1),
    "action_hz": np.full(3, 10, np.float32),
    "fps": np.full(3, 10, np.float32),
    "state": rng.standard_normal((3, 9, 3)).astype(np.float32),
    "state_mask": np.ones((3, 9, 3), bool),
  }
