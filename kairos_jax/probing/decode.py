"""Linear probes: whether a variable can be read from what a layer holds, beside the same probe on shuffled labels."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes

from kairos_jax.errors import KairosError
from kairos_jax.evaluation.intervals import Interval, wilson
from kairos_jax.probing import draw

FOLDS = 5
MOST_FEATURES = 1024  # of more, a random projection keeps the distances


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How often a probe names the label of an episode that it was not fitted on.

  Attributes:
    accuracy: by layer.
    control: of the same probe where the labels are shuffled: what its freedom alone would give.
  """

  accuracy: dict[int, Interval]
  control: dict[int, Interval]

  def plot(self, axes: Axes | None = None) -> Axes:
    """A dot with its interval for each layer, and the control beside it."""
    panel = draw.panel(axes, "layer", "held-out accuracy")
    for shift, label, found in ((-0.1, "probe", self.accuracy), (0.1, "shuffled labels", self.control)):
      value, low, high = np.array(list(found.values())).T
      panel.errorbar(np.array(list(found)) + shift, value, [value - low, high - value], fmt="o", label=label)
    panel.set(ylim=(0, 1.05), xticks=list(self.accuracy))
    return draw.legend(panel)


def decode(
  features: Mapping[int, Float[np.ndarray, "N ..."]],
  labels: Int[np.ndarray, "N"],
  groups: Int[np.ndarray, "N"] | None = None,
  seed: int = 0,
) -> Decoding:
  """Fits a logistic regression to each layer's features of N episodes, in five folds.

  Args:
    features: by layer, for instance `{i: s[-1] for i, s in recording.state.items()}`.
    labels: what is to be told, as classes.
    groups: episodes of one group, such as one scene with several labels, are held out together: a probe that has seen
      one of them has learned what the others are not. None: each is alone.
    seed: of the folds, the projection and the shuffle.

  Raises:
    KairosError: scikit-learn is missing, there is one class only, or a class has fewer episodes than there are folds.
  """
  classes, counts = np.unique(labels, return_counts=True)
  if len(classes) < 2 or counts.min() < FOLDS:
    raise KairosError(
      f"decode: {dict(zip(classes.tolist(), counts.tolist(), strict=True))} episodes a class; "
      f"two classes or more of at least {FOLDS} are needed"
    )
  groups = np.arange(len(labels)) if groups is None else groups
  shuffled = np.random.default_rng(seed).permutation(labels)
  flat = {layer: np.asarray(x, np.float32).reshape(len(labels), -1) for layer, x in features.items()}
  return Decoding(
    *({layer: _held_out(x, target, groups, seed) for layer, x in flat.items()} for target in (labels, shuffled))
  )


def folds(seed: int) -> Any:
  """A splitter of scikit-learn: as much of each class in each fold, and whole groups.

  Raises:
    KairosError: scikit-learn is missing.
  """
  try:
    from sklearn.model_selection import StratifiedGroupKFold
  except ImportError as error:
    raise KairosError("probes need scikit-learn; pip install kairos-jax[notebook]") from error
  return StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)


def _held_out(
  x: Float[np.ndarray, "N D"], labels: Int[np.ndarray, "N"], groups: Int[np.ndarray, "N"], seed: int
) -> Interval:
  cv = folds(seed)
  from sklearn import linear_model, model_selection, pipeline, preprocessing, random_projection

  steps = [preprocessing.StandardScaler(), linear_model.LogisticRegression(C=0.1, max_iter=1000)]
  if x.shape[1] > MOST_FEATURES:
    steps.insert(0, random_projection.GaussianRandomProjection(MOST_FEATURES, random_state=seed))
  told = model_selection.cross_val_predict(pipeline.make_pipeline(*steps), x, labels, groups=groups, cv=cv)
  return wilson(int((told == labels).sum()), len(labels))
