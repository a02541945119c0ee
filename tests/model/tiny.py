"""A mixture small enough to compile in seconds, with every weight random, and the pieces tests share."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from kairos_jax.interfaces import Context
from kairos_jax.interop import reference_names
from kairos_jax.model import ActionConfig, VideoConfig, WorldActionConfig, WorldActionModel
from kairos_jax.model.world_action import init_params

SIZES = dict(freq_dim=16, text_dim=12)
TEXT = 5  # tokens of context


def config(*, heads=2, video_frames=None, **video):
  """Two groups of every kind of layer that has its own path; `video` overrides the video tower."""
  layers = ("SWA", "DSWA", "GATED") * 2
  sizes = dict(dim=24, ffn_dim=40, layers=layers, window_size=2, dilation=2, channels=3, key_dim=8, value_dim=12)
  action = dict(dim=16, attention_dim=24, ffn_dim=28, action_dim=4, state_dim=5, video_frames=video_frames)
  return WorldActionConfig(
    video=VideoConfig(**{**sizes, **SIZES, **video}, heads=heads),
    action=ActionConfig(**action, **SIZES, heads=heads),
  )


def video_only(**video):
  return dataclasses.replace(config(**video), action=None)


@functools.cache
def params(model_config, seed=0):
  """Noise in every tensor, heads and biases included, of the size a trained one would have."""
  rng = np.random.default_rng(seed)

  def draw(path, x):
    name = path[-1].key
    noise = rng.standard_normal(x.shape).astype(np.float32)
    if name == "kernel":
      return noise * x.shape[-2] ** -0.5
    return {"scale": 1 + 0.1 * noise, "A_log": noise - 1, "bias": 0.1 * noise}.get(name, 0.4 * noise)

  shapes = jax.eval_shape(lambda: init_params(model_config, jax.random.key(0)))
  return jax.tree.map(jnp.asarray, jax.tree_util.tree_map_with_path(draw, shapes))


@functools.cache
def tensors(model_config):
  """The same weights under the reference's names, for the oracle."""
  return reference_names.to_reference(params(model_config), model_config)


@functools.cache
def apply(model_config, method, **static):
  """One of the model's methods with `static` keywords, compiled once for all tests: (params, *args, **kwargs)."""
  model = WorldActionModel(model_config)
  return jax.jit(lambda params, *args, **kw: model.apply({"params": params}, *args, **kw, **static, method=method))


def latents(frames, *, batch=1, height=4, width=4, channels=3, seed=0):
  return _noise(seed, batch, frames, height, width, channels)


def actions(count, *, batch=1, seed=1):
  return _noise(seed, batch, count, 4)


def context(batch=1, seed=2, masked=False):
  """Text of random length (at least 2 tokens) if `masked`."""
  mask = np.arange(TEXT) < np.random.default_rng(seed).integers(2, TEXT, (batch, 1)) if masked else None
  return Context(_noise(seed, batch, TEXT, SIZES["text_dim"]), mask)


def rows(context):
  """The context clip by clip, as the oracle takes it: [(tokens, mask)]."""
  masks = [None] * len(context.tokens) if context.mask is None else context.mask
  return list(zip(context.tokens, masks, strict=True))


def _noise(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
