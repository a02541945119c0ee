"""How states and actions are brought to one scale, and back to a robot's units."""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from jaxtyping import Array, Float, Float32

from data_pipelines import embodiments
from data_pipelines.embodiments.base import Embodiment, Normalization
from data_pipelines.source import Source
from data_pipelines.statistics import Features, Statistics, Summary, merge_into
from kairos_jax.errors import KairosError

# A dimension of a smaller range, or of a deviation below a hundredth of it, is constant: it is only centered.
_SMALL = 1e-4
Values = Float[np.ndarray, "... D"] | Float[Array, "... D"]


@dataclasses.dataclass(frozen=True)
class Normalizer:
  """Maps x to (x - center) / scale; outliers go beyond, nothing is clipped.

  `center` and `scale` are vectors [D], or [horizon, D] with numbers of its own for each step of a chunk.
  """

  kind: Normalization
  center: Float32[np.ndarray, "*horizon D"]
  scale: Float32[np.ndarray, "*horizon D"]

  def __post_init__(self):
    """KairosError unless the numbers fit each other and can be divided by."""
    if self.kind not in get_args(Normalization):
      raise KairosError(f"normalizer kind is {self.kind!r}: one of {', '.join(get_args(Normalization))} is allowed")
    if self.center.ndim not in (1, 2) or self.center.shape != self.scale.shape:
      raise KairosError(
        f"normalizer center {self.center.shape} and scale {self.scale.shape} must both be [D] or [horizon, D]"
      )
    if not (np.isfinite(self.center).all() and np.isfinite(self.scale).all() and (self.scale > 0).all()):
      raise KairosError("normalizer center must be finite, and scale finite and above 0")

  @classmethod
  def from_summary(cls, summary: Summary, kind: Normalization) -> "Normalizer":
    """From min, max, mean, std, q01 and q99: of all entries [D], or of each step [horizon, D].

    min_max and quantile map min..max and q01..q99 to [-1, 1], z_score to mean 0 and deviation 1; none changes nothing.
    """
    low, high = {"quantile": ("q01", "q99")}.get(kind, ("min", "max"))
    if kind == "none":
      center, scale = np.zeros_like(summary["mean"]), np.ones_like(summary["mean"])
    elif kind == "z_score":
      center, scale = summary["mean"], np.where(summary["std"] > _SMALL / 100, summary["std"], 1)
    else:
      wide = summary[high] - summary[low] >= _SMALL
      center, scale = (summary[high] + summary[low]) / 2, np.where(wide, (summary[high] - summary[low]) / 2, 1)
    return cls(kind, np.asarray(center, np.float32), np.asarray(scale, np.float32))

  @property
  def dim(self) -> int:
    """D."""
    return self.center.shape[-1]

  @property
  def horizon(self) -> int | None:
    """Steps that have numbers of their own; None if all have the same."""
    return self.center.shape[0] if self.center.ndim == 2 else None

  def normalize(self, x: Values) -> Values:
    """Native units to one scale, numpy and jax arrays alike; [..., n, D] from a chunk's first step on, if per step."""
    center, scale = self._numbers(x)
    return (x - center) / scale

  def denormalize(self, x: Values) -> Values:
    """The inverse of `normalize`."""
    center, scale = self._numbers(x)
    return x * scale + center

  def _numbers(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
    if self.horizon is None:
      return self.center, self.scale
    if x.ndim < 2 or x.shape[-2] > self.horizon:
      raise KairosError(f"normalizer of {self.horizon} steps cannot take {list(x.shape)}: [..., steps, {self.dim}]")
    return self.center[: x.shape[-2]], self.scale[: x.shape[-2]]

  def to_json(self) -> dict[str, Any]:
    """As JSON values."""
    return {"kind": self.kind, "center": self.center.tolist(), "scale": self.scale.tolist()}

  @classmethod
  def from_json(cls, values: Mapping[str, Any]) -> "Normalizer":
    """What `to_json` gave.

    Raises:
      KairosError: the values are not a normalizer.
    """
    try:
      center, scale = (np.asarray(values[name], np.float32) for name in ("center", "scale"))
      return cls(values["kind"], center, scale)
    except (ValueError, KeyError, TypeError) as error:
      raise KairosError(f"not a normalizer: {str(values)[:80]}; kind, center and scale are required") from error


@dataclasses.dataclass(frozen=True)
class EmbodimentNormalizer:
  """An embodiment and the normalizers of its state and action."""

  embodiment: Embodiment
  state: Normalizer
  action: Normalizer

  def __post_init__(self):
    """KairosError if a normalizer is for another number of dimensions than the embodiment has."""
    for name in ("state", "action"):
      wanted, given = len(getattr(self.embodiment, name)), getattr(self, name).dim
      if wanted != given:
        raise KairosError(
          f"embodiment {self.embodiment.name!r} has {wanted} {name} dimensions, its normalizer has {given}"
        )

  @classmethod
  def from_statistics(cls, embodiment: Embodiment, features: Features) -> "EmbodimentNormalizer":
    """Of the embodiment's kind and scope; states have one set of numbers for all steps.

    Raises:
      KairosError: the statistics lack a feature that the embodiment has.
    """
    made = {}
    for name in ("state", "action"):
      if len(getattr(embodiment, name)) == 0:
        made[name] = Normalizer("none", np.zeros(0, np.float32), np.ones(0, np.float32))
      elif name not in features:
        raise KairosError(f"embodiment {embodiment.name!r} has no labeled {name} in the data: nothing to normalize by")
      else:
        per_step = name == "action" and embodiment.scope == "per_step"
        made[name] = Normalizer.from_summary(_summary(features[name], per_step), embodiment.normalization)
    return cls(embodiment, **made)

  def to_json(self) -> dict[str, Any]:
    """As JSON values."""
    return {name: getattr(self, name).to_json() for name in ("embodiment", "state", "action")}

  @classmethod
  def from_json(cls, values: Mapping[str, Any]) -> "EmbodimentNormalizer":
    """What `to_json` gave.

    Raises:
      KairosError: the values are not such a normalizer.
    """
    try:
      parts = values["embodiment"], values["state"], values["action"]
    except (KeyError, TypeError) as error:
      raise KairosError(f"not an embodiment's normalizer: {str(values)[:80]}") from error
    return cls(Embodiment.from_json(parts[0]), Normalizer.from_json(parts[1]), Normalizer.from_json(parts[2]))


def make_normalizers(sources: Mapping[str, Source]) -> dict[str, EmbodimentNormalizer]:
  """Of every embodiment that has labels in these sources, by the merged statistics of all of them; sorted by name.

  Raises:
    KairosError: an embodiment is unknown, or its labels do not fit it.
  """
  merged: dict[str, Features] = {}
  for source in sources.values():
    for name, features in source.statistics.items():
      if features:
        merge_into(merged.setdefault(source.contents[name].embodiment, {}), features)
  return {name: EmbodimentNormalizer.from_statistics(embodiments.get(name), merged[name]) for name in sorted(merged)}


def _summary(statistics: Statistics, per_step: bool) -> Summary:
  return statistics.step_summary() if per_step else statistics.summary()
