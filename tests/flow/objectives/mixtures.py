"""Mixtures of two Gaussians on the line, noised: densities, scores and the velocity that denoises them exactly."""

import jax
import jax.numpy as jnp
import numpy as np


def velocity(mixture, z, sigma, xp=jnp):
  """E[noise - x | z] of x from 1/2 N(mean_0, spread_0^2) + 1/2 N(mean_1, spread_1^2), elementwise; sigma [B]."""
  sigma = sigma.reshape((-1,) + (1,) * (z.ndim - 1))[..., None]
  z, means, spreads = z[..., None], mixture["mean"], mixture["spread"]
  variance = (1 - sigma) ** 2 * spreads**2 + sigma**2
  off = z - (1 - sigma) * means
  logits = -0.5 * off**2 / variance - 0.5 * xp.log(variance)
  second = 0.5 * (1 + xp.tanh((logits[..., 1:] - logits[..., :1]) / 2))
  weights = xp.concatenate([1 - second, second], axis=-1)
  x = means + (1 - sigma) * spreads**2 / variance * off
  noise = sigma / variance * off
  return (weights * (noise - x)).sum(axis=-1)


def density(mixture, z, sigma):
  """Of noised data, in float64."""
  variance = (1 - sigma) ** 2 * np.square(mixture["spread"]) + sigma**2
  off = z[:, None] - (1 - sigma) * np.asarray(mixture["mean"])
  return np.mean(np.exp(-0.5 * off**2 / variance) / np.sqrt(2 * np.pi * variance), axis=1)


def divergence(ours, theirs, sigma):
  """KL(ours || theirs) at a noise level, by quadrature in float64."""
  z = np.linspace(-8, 8, 4001)
  p, q = density(ours, z, sigma), density(theirs, z, sigma)
  return np.sum(p * np.log(p / np.maximum(q, 1e-300))) * (z[1] - z[0])


def sample(key, mixture, shape):
  """Draws from the mixture."""
  which, noise = jax.random.split(key)
  index = jax.random.randint(which, shape, 0, 2)
  return jnp.asarray(mixture["mean"])[index] + jnp.asarray(mixture["spread"])[index] * jax.random.normal(noise, shape)
