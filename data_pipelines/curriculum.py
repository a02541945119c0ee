"""What is drawn when: how a stage's mixture of sources moves over its samples."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from kairos_jax.errors import KairosError


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


class Curriculum:
  """Which source sample i of a stage comes from, and which element of that source's own stream: a grain selection map.

  The mixture is met at every moment, not only on average: after any n samples a source is at most a sample or two from
  its due. The order within that is random, so that striding over samples favors no source. The stage's samples are
  planned once; beyond them (where damaged records were passed over) the end mixture goes on.
  """

  def __init__(self, mixture: Mixture, samples: int, seed: int):
    start, end = mixture.shares()
    self._samples = samples
    self._stage = _plan(start, end, samples, seed)
    self._after = _plan(end, end, min(samples, 1000), seed)
    self._in_stage, self._in_lap = (np.bincount(plan[0], minlength=len(end)) for plan in (self._stage, self._after))

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index: int) -> tuple[int, int]:
    if index < self._samples:
      sources, positions = self._stage
      return int(sources[index]), int(positions[index])
    sources, positions = self._after
    lap, index = divmod(index - self._samples, len(sources))
    source = int(sources[index])
    return source, int(self._in_stage[source] + lap * self._in_lap[source] + positions[index])


def _plan(
  start: Float[np.ndarray, "K"], end: Float[np.ndarray, "K"], samples: int, seed: int
) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
  """Sources and positions of `samples` draws whose shares move linearly from `start` to `end`."""
  time = np.arange(samples + 1) / samples
  due = samples * (np.outer(start, time) + np.outer(end - start, time**2 / 2))  # Draws owed by time t, for each source.
  counts = np.floor(due[:, -1]).astype(int)
  remainder = samples - counts.sum()
  counts[np.argsort(counts - due[:, -1], kind="stable")[:remainder]] += 1

  # Draw n of a source comes at a random moment between the times at which n and n + 1 draws are due.
  rng = np.random.default_rng(seed)
  moments = [
    np.interp(np.arange(count) + rng.random(count), owed, time) for owed, count in zip(due, counts, strict=True)
  ]
  order = np.argsort(np.concatenate(moments), kind="stable")
  sources = np.repeat(np.arange(len(counts)), counts)
  positions = np.concatenate([np.arange(count) for count in counts])
  return sources[order].astype(np.int16), positions[order]


def linear(ends: Sequence[float], index: int, samples: int) -> float:
  """The value at sample `index` of a quantity that moves from ends[0] to ends[1] over a stage, and stays there."""
  progress = min(index / samples, 1.0)
  return ends[0] + (ends[1] - ends[0]) * progress
