"""What is drawn when: how shares of streams move over a stage. Any draw is computed from its number alone."""

import dataclasses
import functools
import math
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt64

from kairos_jax.errors import KairosError

_BLOCK = 1024  # draws that are computed together, about


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Weights of the sources at a stage's start and end, linear between; a source left out has weight 0."""

  start: Mapping[str, float]
  end: Mapping[str, float]

  def __post_init__(self):
    """KairosError unless both ends are weights: not negative, and not all zero."""
    for weights in (self.start, self.end):
      if not sum(weights.values()) > 0 or min(weights.values()) < 0:
        raise KairosError(f"mixture weights {dict(weights)} must be 0 or more, and not all 0")

  @property
  def names(self) -> list[str]:
    """Of all sources that are ever drawn, sorted."""
    return sorted(name for name in {*self.start, *self.end} if self.start.get(name) or self.end.get(name))

  def shares(self) -> tuple[Float[np.ndarray, "K"], Float[np.ndarray, "K"]]:
    """Of each of `names`, at the start and at the end; each sums to 1."""
    ends = (np.array([weights.get(name, 0.0) for name in self.names]) for weights in (self.start, self.end))
    start, end = (weights / weights.sum() for weights in ends)
    return start, end


class Schedule:
  """Draw i of a stage: which of K streams it comes from, and which element of that stream. A grain selection map.

  The shares are met at every moment, not only on average: after any number of draws a stream is at most a draw or two
  from its due. The order within that is random, so that striding over draws favors no stream. After the stage's end
  the last shares go on, without end.

  Draw n of a stream comes when n + u draws of it are due, with a u between 0 and 1 that is a hash of (seed, stream, n).
  How many draws came before a moment is therefore known without counting. A block of about a thousand draws is
  computed when it is needed; nothing else is held.
  """

  def __init__(self, start: Float[np.ndarray, "K"], end: Float[np.ndarray, "K"], draws: float, seed: int):
    """Prepares a stage.

    Args:
      start, end: shares of the streams at the stage's two ends; they need not sum to 1.
      draws: those that the stage would have if the shares summed to 1.
      seed: of the order.
    """
    self._start, self._end, self._draws, self._seed = start, end, draws, seed
    # Shares that fall to nothing go on as they were on average, for a few draws may be left after the stage's end.
    self._after = end if end.any() else (start + end) / 2
    self._totals = tuple(float(shares.sum()) for shares in (start, end, self._after))
    due = draws * (self._totals[0] + self._totals[1]) / 2
    self._blocks = max(1, round(due / _BLOCK))  # in the stage; they have equal times, not equal numbers of draws
    self._block = functools.lru_cache(maxsize=4)(self._make_block)
    self._first = functools.lru_cache(maxsize=8)(lambda block: int(self.drawn(block / self._blocks).sum()))

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index: int) -> tuple[int, int]:
    block = int(self.moment(index) * self._blocks)
    while index < (first := self._first(block)):
      block -= 1
    while index >= (after := self._first(block + 1)):
      block, first = block + 1, after
    streams, positions = self._block(block)
    return int(streams[index - first]), int(positions[index - first])

  def moment(self, index: int) -> float:
    """When so many draws are due: 0 at the stage's start, 1 at its end, more after it."""
    start, end, after = self._totals
    owed = index / self._draws
    if owed > (start + end) / 2:
      return 1 + (owed - (start + end) / 2) / after
    return min(2 * owed / (start + math.sqrt(max(start**2 + 2 * (end - start) * owed, 0.0))), 1.0) if index else 0.0

  def due(self, moment: float) -> Float[np.ndarray, "K"]:
    """Draws owed to each stream by a moment."""
    inside, after = min(moment, 1.0), max(moment - 1.0, 0.0)
    return self._draws * (self._start * inside + (self._end - self._start) * inside**2 / 2 + self._after * after)

  def drawn(self, moment: float) -> Int[np.ndarray, "K"]:
    """Draws of each stream before a moment."""
    due = self.due(moment)
    whole = np.floor(due).astype(np.int64)
    return whole + (_jitter(self._seed, np.arange(len(due)), whole) < due - whole)

  def _make_block(self, block: int) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
    begins, ends = self.drawn(block / self._blocks), self.drawn((block + 1) / self._blocks)
    streams = np.repeat(np.arange(len(begins)), ends - begins)
    positions = np.concatenate([np.arange(*ends) for ends in zip(begins, ends, strict=True)])
    owed = (positions + _jitter(self._seed, streams, positions)) / self._draws
    moments = _when(owed, *(shares[streams] for shares in (self._start, self._end, self._after)))
    order = np.argsort(moments, kind="stable")
    return streams[order], positions[order]


def _when(
  owed: Float[np.ndarray, "N"],
  start: Float[np.ndarray, "N"],
  end: Float[np.ndarray, "N"],
  later: Float[np.ndarray, "N"],
) -> Float[np.ndarray, "N"]:
  """The moment at which `owed` is due: start t + (end - start) t^2 / 2 until 1, and later (t - 1) more after it."""
  with np.errstate(divide="ignore", invalid="ignore"):
    root = np.sqrt(np.maximum(start**2 + 2 * (end - start) * owed, 0))
    inside = np.where(owed > 0, 2 * owed / (start + root), 0.0)
    after = 1 + (owed - (start + end) / 2) / later
  return np.where(owed <= (start + end) / 2, np.minimum(inside, 1.0), after)


def _jitter(seed: int, streams: Int[np.ndarray, "N"], positions: Int[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
  """Uniform numbers in [0, 1), hashes of their arguments."""
  base = _mixed(streams.astype(np.uint64) + np.uint64(seed))
  return (_mixed(base ^ positions.astype(np.uint64)) >> np.uint64(11)) * 2.0**-53


def _mixed(x: UInt64[np.ndarray, "N"]) -> UInt64[np.ndarray, "N"]:
  """A number that depends on every bit of x (the finalizer of SplitMix64, Steele et al. 2014)."""
  x = x + np.uint64(0x9E3779B97F4A7C15)
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def linear(ends: Sequence[float], progress: float) -> float:
  """The value of a quantity that moves from ends[0] to ends[1] while `progress` goes from 0 to 1, and stays there."""
  return ends[0] + (ends[1] - ends[0]) * min(progress, 1.0)
