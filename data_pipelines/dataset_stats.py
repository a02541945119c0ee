"""`dataset_stats.json` as the reference implementation and the released policies have it, read and written.

  {"state": {"default": {"global_min": [D], "stepwise_min": [steps, D], ...}}, "action": {...},
   "num_episodes": n, "num_transition": n}

for min, max, mean, std, q01 and q99. It holds results, which cannot be merged; `Source.statistics` can.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.embodiments import Embodiment
from data_pipelines.normalize import EmbodimentNormalizer, Normalizer
from data_pipelines.statistics import NAMES, Features, Summary
from kairos_jax import files
from kairos_jax.errors import KairosError

_SCOPES = {"global": 1, "stepwise": 2}  # and the number of axes


@dataclasses.dataclass(frozen=True)
class DatasetStats:
  """Of one embodiment: by feature ("state", "action"), over all entries [D] and for each step of a chunk [steps, D]."""

  overall: Mapping[str, Summary]
  stepwise: Mapping[str, Summary]
  episodes: int
  transitions: int

  @classmethod
  def of(cls, features: Features, episodes: int, transitions: int) -> "DatasetStats":
    """From merged statistics and the numbers of clips and actions."""
    return cls(
      {name: feature.summary() for name, feature in features.items()},
      {name: feature.step_summary() for name, feature in features.items()},
      episodes,
      transitions,
    )

  def normalizer(self, embodiment: Embodiment) -> EmbodimentNormalizer:
    """Of the embodiment's kind; its actions per step if its scope says so.

    Raises:
      KairosError: a feature is missing, or has other dimensions than the embodiment.
    """
    for feature in ("state", "action"):
      if feature not in self.overall:
        raise KairosError(f"dataset statistics have no {feature}; embodiment {embodiment.name!r} needs it")
    actions = self.stepwise if embodiment.scope == "per_step" else self.overall
    return EmbodimentNormalizer(
      embodiment,
      Normalizer.from_summary(self.overall["state"], embodiment.normalization),
      Normalizer.from_summary(actions["action"], embodiment.normalization),
    )


def write(path: str | Path, stats: DatasetStats) -> None:
  """Writes the file, whole or not at all."""
  features = {
    feature: {
      "default": {
        f"{scope}_{name}": np.asarray(summaries[feature][name]).tolist()
        for scope, summaries in (("global", stats.overall), ("stepwise", stats.stepwise))
        for name in NAMES
      }
    }
    for feature in stats.overall
  }
  files.write_json(path, {**features, "num_episodes": stats.episodes, "num_transition": stats.transitions})


def read(path: str | Path) -> DatasetStats:
  """The file's statistics; the stepwise ones may be missing, as in files that only hold global ones.

  Raises:
    KairosError: the file is missing or not of this layout.
  """
  try:
    content = json.loads(Path(path).read_text())
    summaries: dict[str, dict[str, Summary]] = {scope: {} for scope in _SCOPES}
    for feature in ("state", "action"):
      if feature not in content:
        continue
      values = content[feature]["default"]
      for scope, axes in _SCOPES.items():
        if scope == "global" or f"{scope}_min" in values:
          summaries[scope][feature] = _summary(values, scope, axes)
    return DatasetStats(
      summaries["global"], summaries["stepwise"], int(content["num_episodes"]), int(content["num_transition"])
    )
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise KairosError(f"cannot read the dataset statistics {path}: {type(error).__name__} {error}") from error


def _summary(values: Mapping[str, object], scope: str, axes: int) -> Summary:
  summary = {name: np.asarray(values[f"{scope}_{name}"], np.float64) for name in NAMES}
  if len(shapes := {array.shape for array in summary.values()}) > 1 or len(next(iter(shapes))) != axes:
    raise ValueError(f"{scope} statistics have shapes {sorted(shapes)}, one of {axes} axes is required")
  return summary
