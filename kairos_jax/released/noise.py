"""The noise that PyTorch draws from a seed on the CPU: the same seed then begins the same video as it does there.

Source: ATen's normal_fill (Box-Muller on groups of 16 numbers) over its Mersenne twister.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float32

_GROUP = 16


def official_noise(seed: int, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
  """As `torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))`, of 16 numbers or more."""
  size = math.prod(shape)
  assert size >= _GROUP, "PyTorch draws fewer numbers in another way"
  raw: Any = np.random.RandomState(seed & 0xFFFFFFFF)._bit_generator
  uniform = _uniform(raw, size)
  whole = size // _GROUP * _GROUP
  values = np.empty(size, np.float32)
  values[:whole] = _normal(uniform[:whole])
  if whole < size:  # the last 16 are drawn again
    values[-_GROUP:] = _normal(_uniform(raw, _GROUP))
  return values.reshape(shape)


def _uniform(raw: np.random.MT19937, count: int) -> np.ndarray:
  return (raw.random_raw(count) & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)


def _normal(uniform: np.ndarray) -> np.ndarray:
  halves = uniform.reshape(-1, 2, _GROUP // 2)
  radius = np.sqrt(-2 * np.log(1 - halves[:, 0]))
  angle = np.float32(2 * math.pi) * halves[:, 1]
  return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
