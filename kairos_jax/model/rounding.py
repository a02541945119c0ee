"""Rounds a matrix so that what it makes of its inputs changes little, not what it is.

Row by row, each row's error is made up for by the rows that are not yet rounded, as far as their inputs go together.
Only the second moments of the inputs are needed, within blocks of them: their size does not grow with the matrix's.

Source: Frantar et al., GPTQ (arXiv:2210.17323), here within each block of inputs; with a scale that is known before.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

DAMPING = 0.01  # of the mean second moment, added to each: inputs that were not seen to differ may differ elsewhere


def round_for_inputs(
  matrix: Float[Array, "I O"],
  scale: Float[Array, "#N O"],
  moments: Float[np.ndarray, "N J J"],
  limits: tuple[int, int],
) -> Float[Array, "I O"]:
  """Whole numbers in `limits` that, times `scale`, stand for the matrix.

  Args:
    matrix: I = N J inputs, O outputs.
    scale: of the outputs for each block of J inputs, or for all of them.
    moments: mean x x^T of the J inputs of each block.
    limits: the least and the largest number.
  """
  blocks = matrix.reshape(len(moments), -1, matrix.shape[-1])
  scales = jnp.broadcast_to(scale, (len(blocks), scale.shape[-1]))
  return _round(blocks, scales, _factors(moments), limits).reshape(matrix.shape)


def _factors(moments: Float[np.ndarray, "N J J"]) -> Float[np.ndarray, "N J J"]:
  """Upper U with U^T U = the inverse of the damped moments: row i says how later rows make up for row i."""
  moments = np.asarray(moments, np.float64)
  damping = DAMPING * np.trace(moments, axis1=1, axis2=2) / moments.shape[-1] + np.finfo(np.float32).tiny
  inverse = np.linalg.inv(moments + damping[:, None, None] * np.eye(moments.shape[-1]))
  return np.swapaxes(np.linalg.cholesky((inverse + np.swapaxes(inverse, 1, 2)) / 2), 1, 2).astype(np.float32)


@functools.partial(jax.jit, static_argnums=3)
def _round(
  blocks: Float[Array, "N J O"], scales: Float[Array, "N O"], factors: Float[Array, "N J J"], limits: tuple[int, int]
) -> Float[Array, "N J O"]:
  def of_block(block: Array, scale: Array, factor: Array) -> Array:
    later = jnp.triu(factor, 1) / jnp.diag(factor)[:, None]

    def one(row: Array, block: Array) -> Array:
      rounded = jnp.clip(jnp.round(block[row] / scale), *limits)
      block = block - later[row][:, None] * (block[row] - rounded * scale)
      return block.at[row].set(rounded)

    return jax.lax.fori_loop(0, len(block), one, block)

  return jax.vmap(of_block)(blocks, scales, factors)
