"""Quantiles of a stream in bounded memory, mergeable, with an error that the sketch itself can tell.

A row stands for 2^h values of each column at level h. A full level is sorted column by column and every other row is
kept, with twice the weight, one level up. If r of the sorted rows are at most v, the kept ones count for
2 ceil(r / 2) or 2 floor(r / 2) of them, whether the first or the second of each pair is kept: too many by at most one
weight, or too few by at most one. The two sums are kept, and the pair's row that balances them; so a rank is off by at
most the larger sum, whatever the values and their order. With K rows a level that is at most log2(N / K) / (2 K) of N.

Source: Munro and Paterson, Selection and sorting with limited storage (1980); Manku, Rajagopalan and Lindsay (1998). A
library's sketch draws random numbers: here equal data gives equal bytes.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from kairos_jax.errors import KairosError

ROWS = 4096  # of a level


class Sketch:
  """Of D columns that receive rows together.

  Attributes:
    levels: sorted or unsorted rows [n, D]; those of level h weigh 2^h.
    count: rows received.
    over, under: bounds of how much a rank may be counted too high, and too low.
  """

  def __init__(self, columns: int, rows: int = ROWS):
    if rows < 2 or rows % 2:
      raise KairosError(f"sketch rows is {rows}: an even number from 2 on is required")
    self.rows = rows
    self.count = self.over = self.under = 0
    self.levels: list[Float[np.ndarray, "n D"]] = [np.zeros((0, columns), np.float32)]

  def add(self, values: Float[np.ndarray, "n D"]) -> None:
    """Receives rows, of finite numbers."""
    self.count += len(values)
    self.levels[0] = np.concatenate([self.levels[0], values.astype(np.float32)])
    self._compact()

  def merge(self, other: "Sketch") -> None:
    """Receives all that `other` has received."""
    self.count, self.over, self.under = self.count + other.count, self.over + other.over, self.under + other.under
    for level, values in enumerate(other.levels):
      self._level(level)
      self.levels[level] = np.concatenate([self.levels[level], values])
    self._compact()

  def quantiles(self, shares: Sequence[float]) -> Float[np.ndarray, "Q D"]:
    """The values at these shares of the way from the smallest to the largest, linear between neighbors.

    Exact (as `np.quantile`) while all rows fit one level; else the rank is off by at most `rank_error`.
    """
    weights = np.concatenate([np.full(len(rows), 2**level) for level, rows in enumerate(self.levels)])
    values = np.concatenate(self.levels).astype(np.float64)
    order = np.argsort(values, axis=0, kind="stable")
    out = np.empty((len(shares), values.shape[1]))
    for column in range(values.shape[1]):
      weight = weights[order[:, column]]
      middle = np.cumsum(weight) - (weight + 1) / 2  # the mean rank of the values that the row stands for
      out[:, column] = np.interp(np.multiply(shares, self.count - 1), middle, values[order[:, column], column])
    return out

  @property
  def rank_error(self) -> float:
    """How far the rank of an answer of `quantiles` may be from the one asked for, as a share of the count."""
    between = 0 if len(self.levels) == 1 else 2 ** (len(self.levels) - 1)
    return (max(self.over, self.under) + between) / max(self.count, 1)

  def _level(self, level: int) -> None:
    while len(self.levels) <= level:
      self.levels.append(self.levels[0][:0])

  def _compact(self) -> None:
    level = 0
    while level < len(self.levels):
      if len(rows := self.levels[level]) >= self.rows:
        even = len(rows) // 2 * 2
        first = self.over <= self.under
        kept = np.sort(rows[:even], axis=0)[0 if first else 1 :: 2]
        if first:
          self.over += 2**level
        else:
          self.under += 2**level
        self._level(level + 1)
        self.levels[level] = rows[even:]
        self.levels[level + 1] = np.concatenate([self.levels[level + 1], kept])
      level += 1
