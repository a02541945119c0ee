"""A pseudo-random order of n elements that is computed element by element: no table is held."""

import numpy as np

_MASK = 2**64 - 1
_TURNS = 6


class Permutation:
  """Where each element of `size` comes to lie in the order of `seed`.

  A Feistel network over the next even power of two permutes it; an image beyond `size` is permuted again until it is
  inside (cycle walking), at most four times on average. Its rounds multiply by the odd constants of SplitMix64.
  """

  def __init__(self, size: int, *seed: int):
    """Prepares the order of `seed` over `size` elements, at least 1."""
    self._size = size
    self._half = max(1, ((size - 1).bit_length() + 1) // 2)
    self._keys = [int(key) for key in np.random.SeedSequence(seed).generate_state(_TURNS, np.uint64)]

  def __getitem__(self, place: int) -> int:
    half, low, size = self._half, (1 << self._half) - 1, self._size
    while True:
      left, right = place >> half, place & low
      for key in self._keys:
        x = ((right ^ key) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 31)) * 0x94D049BB133111EB) & _MASK
        left, right = right, left ^ (x >> (64 - half))
      place = left << half | right
      if place < size:
        return place
