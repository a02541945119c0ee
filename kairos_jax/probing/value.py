"""A value: how likely an episode ends in success, read from the video tower while it runs.

A linear head learns it from a policy's own rollouts and their outcomes. It is judged on episodes that it was not fitted
on, beside a clock, which knows how long an episode has lasted: those that last are those that fail, so that a head
which knows the time and nothing else is already better than chance.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes

from kairos_jax.errors import KairosError
from kairos_jax.evaluation.intervals import Interval, mean_interval, wilson
from kairos_jax.interfaces import num_frames, num_latents
from kairos_jax.probing import draw
from kairos_jax.probing.decode import FOLDS, folds
from kairos_jax.probing.record import record
from kairos_jax.runtime import WorldModel

_AT_ONCE = 32  # episodes
_BINS = 10
_PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # on squared weights of standardized features, beside the mean loss


class Bin(NamedTuple):
  """Moments at which the value told lies in one tenth.

  Attributes:
    told: its mean.
    came: the share that succeeded, with the interval of as many episodes as the moments are of.
    share: of all moments.
  """

  told: float
  came: Interval
  share: float


@dataclasses.dataclass(frozen=True)
class Value:
  """What was told of N episodes at their T moments, each by a head that never saw the episode; NaN after its end.

  Attributes:
    head: from the tower's outputs and the time.
    clock: from the time alone.
    success: how the episodes ended.
    latents_per_second: moments.
  """

  head: Float[np.ndarray, "N T"]
  clock: Float[np.ndarray, "N T"]
  success: Bool[np.ndarray, "N"]
  latents_per_second: float

  def brier(self, told: Float[np.ndarray, "N T"]) -> Float[np.ndarray, "N"]:
    """Squared errors of each episode's moments, added up, in units of the mean number of moments.

    Their mean over episodes is that over moments: 0 is best, and 0.25 whoever always says one half.
    """
    return np.nansum((told - self.success[:, None]) ** 2, axis=1) / np.isfinite(told).sum(axis=1).mean()

  def gain(self) -> Interval:
    """By how much the head's error is below the clock's, with its bootstrap over episodes."""
    return mean_interval(self.brier(self.clock) - self.brier(self.head))

  def bins(self) -> list[Bin]:
    """The moments by the tenth in which the head's value lies; empty ones are left out."""
    there = np.isfinite(self.head)
    episode, _ = np.nonzero(there)
    told, success = self.head[there], self.success[episode]
    place = np.minimum((told * _BINS).astype(int), _BINS - 1)
    found = []
    for one in range(_BINS):
      if (here := place == one).any():
        came, count = float(success[here].mean()), len(np.unique(episode[here]))
        interval = wilson(round(came * count), count)._replace(value=came)
        found.append(Bin(float(told[here].mean()), interval, float(here.mean())))
    return found

  def calibration_error(self) -> float:
    """How far what is told is from what came, in the mean over moments."""
    return sum(one.share * abs(one.told - one.came.value) for one in self.bins())

  def report(self) -> dict[str, Any]:
    """All numbers."""
    rate = np.where(np.isfinite(self.head), self.success.mean(), np.nan)
    return {
      "episodes": len(self.success),
      "success": float(self.success.mean()),
      "brier": {
        "head": float(self.brier(self.head).mean()),
        "clock": float(self.brier(self.clock).mean()),
        "rate": float(self.brier(rate).mean()),
      },
      "gain": list(self.gain()),
      "calibration_error": self.calibration_error(),
      "bins": [one._asdict() for one in self.bins()],
    }

  def plot(self, axes: Axes | None = None) -> Axes:
    """What came over what was told: a calibrated head's dots lie on the diagonal."""
    panel = draw.panel(axes, "success told", "success that came")
    bins = self.bins()
    told, (value, low, high) = [one.told for one in bins], np.array([one.came for one in bins]).T
    panel.plot([0, 1], [0, 1], color="gray", linewidth=1)
    panel.errorbar(told, value, [np.maximum(value - low, 0), np.maximum(high - value, 0)], fmt="o")
    panel.set(xlim=(0, 1), ylim=(0, 1))
    return panel

  def plot_time(self, axes: Axes | None = None) -> Axes:
    """The mean of what is told while episodes run, of those that succeed and those that fail."""
    panel = draw.panel(axes, "seconds", "success told")
    seconds = np.arange(self.head.shape[1]) / self.latents_per_second
    for kind, label in ((self.success, "succeed"), (~self.success, "fail")):
      running = np.isfinite(self.head[kind]).sum(axis=0) >= 5
      panel.plot(seconds[running], np.nanmean(self.head[kind][:, running], axis=0), label=label)
    panel.set(ylim=(0, 1))
    return draw.legend(panel)


def value(
  model: WorldModel,
  videos: Sequence[UInt8[np.ndarray, "_ H W 3"]],
  instructions: Sequence[str],
  success: Bool[np.ndarray, "N"],
  *,
  seed: int = 0,
  progress: Callable[[int], None] = lambda done: None,
) -> Value:
  """Runs the tower over whole episodes, and fits and judges the head in five folds.

  Args:
    model: with a memory of constant size.
    videos: of N episodes, from their beginning to their end, at the model's rate.
    instructions: one each.
    success: how each ended.
    seed: of the folds.
    progress: hears how many episodes the tower has seen.

  Raises:
    KairosError: scikit-learn is missing, fewer episodes of one outcome than there are folds, a video shorter than the
      model's first frames, or as `record`.
  """
  if min(success.sum(), (~success).sum()) < FOLDS:
    raise KairosError(f"{success.sum()} of {len(success)} episodes succeed; {FOLDS} of each outcome are needed")
  features = _features(model, videos, instructions, progress)
  runs = np.isfinite(features[..., 0])
  episode, moment = np.nonzero(runs)
  x, y = features[episode, moment], success[episode]
  head, clock = np.full((2, *runs.shape), np.nan)
  for taught, held in folds(seed).split(x, y, episode):
    fitted = _fit(x[taught], y[taught], episode[taught], seed)
    head[episode[held], moment[held]] = fitted.predict_proba(x[held])[:, 1]
    known = np.unique(episode[taught])
    clock[episode[held], moment[held]] = _clock(runs[known], success[known])[moment[held]]
  return Value(head, clock, success, model.saved.video_fps / model.codec.time_stride)


def _features(
  model: WorldModel, videos: Sequence[UInt8[np.ndarray, "_ H W 3"]], instructions: Sequence[str], progress: Any
) -> Float[np.ndarray, "N T F"]:
  """The mean over tokens of every layer's output, and a number for each moment; NaN after an episode's end."""
  codec = model.codec
  short = [len(video) for video in videos if len(video) < codec.first_frames]
  if short:
    raise KairosError(f"an episode has {short[0]} frames; the model begins with {codec.first_frames}")
  lengths = [num_latents(codec, len(video)) for video in videos]
  frames = num_frames(codec, max(lengths))
  found = []
  for first in range(0, len(videos), _AT_ONCE):
    rows = [row % len(videos) for row in range(first, first + _AT_ONCE)]  # the last batch is filled up
    padded = np.stack([_stretched(videos[row], frames) for row in rows])
    recording = record(model, padded, [instructions[row] for row in rows])
    found.append(np.concatenate([out.mean(axis=2) for out in recording.out.values()], axis=-1).swapaxes(0, 1))
    progress(min(first + _AT_ONCE, len(videos)))
  told = np.concatenate(found)[: len(videos)].astype(np.float64)
  time = np.broadcast_to(np.eye(told.shape[1]), (*told.shape[:2], told.shape[1]))
  features = np.concatenate([told, time], axis=-1)
  features[np.arange(features.shape[1]) >= np.array(lengths)[:, None]] = np.nan
  return features


def _stretched(video: UInt8[np.ndarray, "_ H W 3"], frames: int) -> UInt8[np.ndarray, "T H W 3"]:
  """Cut, or ended with its last frame as often as it takes."""
  return video[np.minimum(np.arange(frames), len(video) - 1)]


def _fit(x: Float[np.ndarray, "M F"], y: Bool[np.ndarray, "M"], episode: Int[np.ndarray, "M"], seed: int) -> Any:
  """A logistic regression, whose penalty is the one that serves best on a fifth of the episodes that it leaves out."""
  from sklearn import linear_model, model_selection, pipeline, preprocessing

  head = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression(max_iter=1000))
  allowed = {"logisticregression__C": [1 / (2 * penalty * len(x)) for penalty in _PENALTIES]}
  split = next(iter(folds(seed).split(x, y, episode)))
  return model_selection.GridSearchCV(head, allowed, cv=[split], scoring="neg_brier_score").fit(x, y)


def _clock(there: Bool[np.ndarray, "N T"], success: Bool[np.ndarray, "N"]) -> Float[np.ndarray, "T"]:
  """The share that succeeded of the episodes that lasted as long; of none, that of those before."""
  shares = np.full(there.shape[1], success.mean())
  for moment in range(there.shape[1]):
    if there[:, moment].any():
      shares[moment] = success[there[:, moment]].mean()
    else:
      shares[moment] = shares[moment - 1]
  return shares
