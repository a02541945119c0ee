"""Statistics of states and actions, and the normalization to [-1, 1] made of them."""

import dataclasses
import json
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Float32

from kairos_jax.errors import KairosError


def summarize(values: Float[np.ndarray, "N D"]) -> dict[str, int | list[float]]:
  """The statistics kept of a feature: its count, and for each dimension min, max, mean, std, q01 and q99."""
  values = values.astype(np.float64)
  q01, q99 = np.quantile(values, (0.01, 0.99), axis=0)
  columns = dict(min=values.min(0), max=values.max(0), mean=values.mean(0), std=values.std(0), q01=q01, q99=q99)
  return {"count": len(values), **{name: column.tolist() for name, column in columns.items()}}


@dataclasses.dataclass(frozen=True)
class Normalizer:
  """Maps [low, high], each dimension's 1 % and 99 % quantiles, to [-1, 1]; outliers go beyond, nothing is clipped."""

  low: Float32[np.ndarray, "D"]
  high: Float32[np.ndarray, "D"]

  @classmethod
  def from_statistics(cls, statistics: Mapping[str, list[float]]) -> "Normalizer":
    """From one feature of one source: `statistics(folder)[source]["action"]`."""
    return cls(np.asarray(statistics["q01"], np.float32), np.asarray(statistics["q99"], np.float32))

  @property
  def _center(self) -> Float32[np.ndarray, "D"]:
    return (self.high + self.low) / 2

  @property
  def _radius(self) -> Float32[np.ndarray, "D"]:
    radius = (self.high - self.low) / 2
    return np.where(radius > 1e-6, radius, 1).astype(np.float32)  # A constant dimension is only centered.

  def normalize(self, x: Float[np.ndarray, "... D"]) -> Float[np.ndarray, "... D"]:
    """Native units to [-1, 1]; works on numpy and jax arrays alike."""
    return (x - self._center) / self._radius

  def denormalize(self, x: Float[np.ndarray, "... D"]) -> Float[np.ndarray, "... D"]:
    """The inverse of `normalize`."""
    return x * self._radius + self._center

  def to_json(self) -> str:
    return json.dumps({"low": self.low.tolist(), "high": self.high.tolist()})

  @classmethod
  def from_json(cls, text: str) -> "Normalizer":
    """What `to_json` wrote.

    Raises:
      KairosError: the text is not a normalizer.
    """
    try:
      low, high = (np.asarray(json.loads(text)[name], np.float32) for name in ("low", "high"))
    except (ValueError, KeyError, TypeError) as error:
      raise KairosError(f"not a normalizer: {text[:80]!r}; a JSON object with low and high is required") from error
    if low.ndim != 1 or low.shape != high.shape:
      raise KairosError(f"normalizer low {low.shape} and high {high.shape} must be vectors of one length")
    return cls(low, high)
