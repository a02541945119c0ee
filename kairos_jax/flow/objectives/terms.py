"""What the objectives share: data and what is given with them, noising, the clean estimate, means over what counts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kairos_jax.flow.schedule import shifted

Params = Any
# (parameters, noisy data [B ...], noise level [B], condition) -> velocity [B ...], an estimate of noise - data.
Velocity = Callable[[Params, Array, Array, Any], Array]
Metrics = dict[str, Array]


class Data(NamedTuple):
  """Samples of what a network denoises.

  Attributes:
    x: clean.
    predicted: over the first axes of `x`; what it does not mark, such as frames that were observed, costs nothing.
    condition: what the network reads beside them.
  """

  x: Float[Array, "B ..."]
  predicted: Bool[Array, "B ..."]
  condition: Any = None


def per_sample(level: Float[Array, "B"], x: Array) -> Array:
  """The levels with axes of length 1 behind them, as many as those of `x`."""
  return jnp.reshape(level, (-1,) + (1,) * (x.ndim - 1))


def noised(x: Array, noise: Array, sigma: Float[Array, "B"]) -> Array:
  """(1 - sigma) x + sigma noise."""
  sigma = per_sample(sigma, x)
  return (1 - sigma) * x + sigma * noise


def clean(noisy: Array, velocity: Array, sigma: Float[Array, "B"]) -> Array:
  """The data that a velocity means: noisy - sigma velocity."""
  return noisy - per_sample(sigma, noisy) * velocity


def mean(values: Float[Array, "B *S"], predicted: Bool[Array, "B *L"]) -> Float[Array, "B"]:
  """Of each sample, over what is predicted of it; 0 if nothing is."""
  means = jnp.mean(values, axis=tuple(range(predicted.ndim, values.ndim)))
  axes = tuple(range(1, predicted.ndim))
  return jnp.sum(means * predicted, axes) / jnp.maximum(jnp.sum(predicted, axes), 1)


def draw(key: Array, x: Float[Array, "B *S"], shift: float) -> tuple[Float[Array, "B"], Float[Array, "B *S"]]:
  """A noise level for each sample, uniform before the shift, and noise for its numbers."""
  level_key, noise_key = jax.random.split(key)
  return shifted(jax.random.uniform(level_key, x.shape[:1]), shift), jax.random.normal(noise_key, x.shape)
