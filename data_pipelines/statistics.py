"""Statistics of states and actions that can be taken in parts and merged: each writer has its own, one step adds up."""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Float64

from data_pipelines.records import Clip
from data_pipelines.sketch import Sketch
from kairos_jax.errors import KairosError

NAMES = ("min", "max", "mean", "std", "q01", "q99")
Summary = Mapping[str, Float64[np.ndarray, "..."]]  # NAMES, each [D], or [horizon, D] for the steps of a chunk


class Moments:
  """Count, mean, variance, extremes and quantiles of D columns; all but the quantiles are exact, in float64.

  Source: Chan, Golub and LeVeque (1979) for the merge of means and sums of squared deviations.
  """

  def __init__(self, columns: int):
    self.count = 0
    self.mean, self.squares = np.zeros(columns), np.zeros(columns)
    self.min, self.max = np.full(columns, np.inf), np.full(columns, -np.inf)
    self.sketch = Sketch(columns)

  def add(self, values: Float[np.ndarray, "n D"]) -> None:
    """Receives rows."""
    if not len(values):
      return
    self.sketch.add(values)
    values = values.astype(np.float64)
    mean = values.mean(0)
    self._join(len(values), mean, np.square(values - mean).sum(0), values.min(0), values.max(0))

  def merge(self, other: "Moments") -> None:
    """Receives all that `other` has received."""
    if other.count:
      self.sketch.merge(other.sketch)
      self._join(other.count, other.mean, other.squares, other.min, other.max)

  def _join(self, count: int, mean: np.ndarray, squares: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    total = self.count + count
    step = mean - self.mean
    self.mean = self.mean + step * (count / total)
    self.squares = self.squares + squares + np.square(step) * (self.count * count / total)
    self.min, self.max, self.count = np.minimum(self.min, low), np.maximum(self.max, high), total

  def summary(self) -> dict[str, Float64[np.ndarray, "D"]]:
    """min, max, mean, std, q01 and q99, if anything was received."""
    q01, q99 = self.sketch.quantiles((0.01, 0.99))
    std = np.sqrt(self.squares / self.count)
    return dict(zip(NAMES, (self.min, self.max, self.mean, std, q01, q99), strict=True))

  def to_tensors(self) -> dict[str, np.ndarray]:
    """As named arrays, for a file."""
    sketch = self.sketch
    numbers = np.array([self.count, sketch.count, sketch.over, sketch.under, sketch.rows], np.int64)
    moments = np.stack([self.mean, self.squares, self.min, self.max])
    return {"counts": numbers, "moments": moments, **{f"level{i}": rows for i, rows in enumerate(sketch.levels)}}

  @classmethod
  def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "Moments":
    """What `to_tensors` gave."""
    made = cls(tensors["moments"].shape[1])
    made.mean, made.squares, made.min, made.max = tensors["moments"]
    sketch = made.sketch = Sketch(len(made.mean), int(tensors["counts"][4]))
    made.count, sketch.count, sketch.over, sketch.under = (int(number) for number in tensors["counts"][:4])
    sketch.levels = [tensors[f"level{i}"] for i in range(len(tensors) - 2)]
    return made


class Statistics:
  """Of one feature, state or action: over all labeled entries, and over those at each step of a chunk.

  Attributes:
    overall: of D columns.
    steps: of horizon * D columns; None if the horizon is 1, whose only step is every entry.
  """

  def __init__(self, dim: int, horizon: int = 1):
    self.dim, self.horizon = dim, horizon
    self.overall = Moments(dim)
    self.steps = Moments(horizon * dim) if horizon > 1 else None

  def add(self, values: Float[np.ndarray, "N D"], mask: Bool[np.ndarray, "N"]) -> None:
    """Receives a clip's labeled entries; a chunk begins at each, and its last entry is held beyond the clip's end."""
    labeled = values[mask]
    self.overall.add(labeled)
    if self.steps is not None and len(labeled):
      index = np.minimum(np.arange(len(labeled))[:, None] + np.arange(self.horizon), len(labeled) - 1)
      self.steps.add(labeled[index].reshape(len(labeled), -1))

  def merge(self, other: "Statistics") -> None:
    """Receives all that `other` has received.

    Raises:
      KairosError: it has other dimensions or another horizon.
    """
    if (self.dim, self.horizon) != (other.dim, other.horizon):
      raise KairosError(
        f"statistics of {self.dim} dimensions and horizon {self.horizon} do not merge with "
        f"{other.dim} dimensions and horizon {other.horizon}"
      )
    self.overall.merge(other.overall)
    if self.steps is not None and other.steps is not None:
      self.steps.merge(other.steps)

  @property
  def count(self) -> int:
    """Labeled entries."""
    return self.overall.count

  def summary(self) -> Summary:
    """Over all entries: each of NAMES, [D]."""
    return self.overall.summary()

  def step_summary(self) -> Summary:
    """For each step of a chunk: each of NAMES, [horizon, D]."""
    steps = self.steps or self.overall
    return {name: values.reshape(self.horizon, self.dim) for name, values in steps.summary().items()}

  def to_tensors(self) -> dict[str, np.ndarray]:
    """As named arrays, for a file."""
    parts = {"overall": self.overall, **({"steps": self.steps} if self.steps is not None else {})}
    return {f"{part}/{key}": value for part, moments in parts.items() for key, value in moments.to_tensors().items()}

  @classmethod
  def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "Statistics":
    """What `to_tensors` gave."""
    overall = Moments.from_tensors(_below(tensors, "overall/"))
    made = cls(len(overall.mean))
    made.overall = overall
    if steps := _below(tensors, "steps/"):
      made.steps = Moments.from_tensors(steps)
      made.horizon = len(made.steps.mean) // max(made.dim, 1)
    return made


Features = dict[str, Statistics]  # "state", "action": those that a source has


def of_clip(clip: Clip, horizon: int = 1) -> Features:
  """The statistics of one clip: of its actions for each step of a chunk of `horizon`, of its states for one."""
  features = {"state": Statistics(clip.state.shape[1]), "action": Statistics(clip.action.shape[1], horizon)}
  for name, statistics in features.items():
    statistics.add(getattr(clip, name), getattr(clip, f"{name}_mask"))
  return {name: statistics for name, statistics in features.items() if statistics.dim and statistics.count}


def merge_into(total: Features, part: Features) -> None:
  """Adds `part` to `total`, feature by feature."""
  for name, statistics in part.items():
    if name not in total:
      total[name] = Statistics(statistics.dim, statistics.horizon)
    total[name].merge(statistics)


def to_tensors(sources: Mapping[str, Features]) -> dict[str, np.ndarray]:
  """Of several sources, as named arrays: a source is its number, as its name may hold slashes."""
  return {
    f"{number}/{feature}/{key}": value
    for number, features in enumerate(sources.values())
    for feature, statistics in features.items()
    for key, value in statistics.to_tensors().items()
  }


def from_tensors(names: Iterable[str], tensors: Mapping[str, np.ndarray]) -> dict[str, Features]:
  """What `to_tensors` gave, for the same source names in the same order."""
  out: dict[str, Features] = {}
  for number, name in enumerate(names):
    mine = _below(tensors, f"{number}/")
    features = sorted({key.partition("/")[0] for key in mine})
    out[name] = {feature: Statistics.from_tensors(_below(mine, f"{feature}/")) for feature in features}
  return out


def _below(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
  return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
