"""Theorem 1 on DelayedCueReach: what a window loses of the color, beside the closed form, and what a tower keeps.

Y is the color as indicators, or the action of the expert at the decision; R(Z) = E|Y - Z|^2. Where a window holds no
frame of the cue, all colors are alike to it, and R*_w - R*_full = E[Var(m_t | W_t)]: 1 - 1 / colors for the color
(`theory.forgotten_gap`), the variance over colors within a scene for the action. Where it holds one, the gap is 0.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes

from data_pipelines.simulate.delayed_cue_reach import GO_FRAMES, DelayedCueReach
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.delayed import Task
from kairos_jax.interfaces import num_latents
from kairos_jax.probing import draw
from kairos_jax.probing.reach import action_reach
from kairos_jax.probing.record import record
from kairos_jax.probing.theory import forgotten_gap
from kairos_jax.runtime import WorldModel

FOLDS = 4
Target = Literal["color", "action"]


@dataclasses.dataclass(frozen=True)
class Gap:
  """The risk of the best predictor of the color or the action, at each of D delays.

  Attributes:
    delays: frames.
    risk: E|Y - Z|^2, held out: of the color 0 where it is known, 1 - 1 / colors where it is forgotten.
    closed: R*_w from the closed form; NaN where there is none.
  """

  delays: tuple[int, ...]
  risk: Float[np.ndarray, "D"]
  closed: Float[np.ndarray, "D"]

  def plot(self, axes: Axes | None = None) -> Axes:
    """Measured risk and the closed form over the delay."""
    panel = draw.panel(axes, "delay, frames", "risk")
    panel.plot(self.delays, self.risk, "o-", label="measured")
    panel.plot(self.delays, self.closed, "--", color="gray", label="closed form")
    return draw.legend(panel)


@dataclasses.dataclass(frozen=True)
class Waits:
  """Films of arms that wait, each scene once in every color; all are as long as the longest.

  Attributes:
    frames: of N scenes, colors and delays.
    decided: for each film, the frame at which the go signal has been seen and the arm decides.
    delay, label, scene: of each film.
    action: the expert's at the decision.
  """

  frames: UInt8[np.ndarray, "N T H W 3"]
  decided: Int[np.ndarray, "N"]
  delay: Int[np.ndarray, "N"]
  label: Int[np.ndarray, "N"]
  scene: Int[np.ndarray, "N"]
  action: Float[np.ndarray, "N A"]


def film(size: int, delays: Sequence[int], *, colors: int = 4, scenes: int = 16, seed: int = 0) -> Waits:
  """Films DelayedCueReach with an arm that does not move. Raises KairosError as the environment does."""
  environment = DelayedCueReach(size, colors)
  length = 9 + 4 * math.ceil(max(delays) / 4)  # of the cue, the delay and the go signal
  films, rows, actions = [], [], []
  for delay in delays:
    for scene in range(scenes):
      for color in range(colors):
        seen = [environment.reset([seed, scene], goal=color, delay=delay).images["front"]]
        seen += [environment.step(np.zeros(3))[0].images["front"] for _ in range(length - 1)]
        films.append(np.stack(seen))
        rows.append((environment.go + GO_FRAMES - 1, delay, color, scene))
        actions.append(environment.expert())
  decided, waited, label, place = np.array(rows).T
  return Waits(np.stack(films), decided, waited, label, place, np.stack(actions))


def window_gap(model: WorldModel, waits: Waits, window: int | None, of: Target = "color") -> Gap:
  """What the latest `window` latent frames tell at the decision, or (None) all that were seen.

  No tower is read: this is the information that any tower with this window could have at most.

  Raises:
    KairosError: scikit-learn is missing, or the window is below 1.
  """
  if window is not None and window < 1:
    raise KairosError(f"window is {window} latent frames; it must be 1 or more")
  latents = np.asarray(model.codec.encode(model.params["codec"], waits.frames)[0])
  now = np.asarray(num_latents(model.codec, waits.decided + 1)) - 1
  flat = latents.reshape(*latents.shape[:2], -1)
  features, forgotten = [], {}
  for i, last in enumerate(now):
    first = 0 if window is None else max(0, last + 1 - window)
    features.append(flat[i, first : last + 1].ravel())
    forgotten[int(waits.delay[i])] = bool(first > 1)  # the cue is in latents 0 and 1
  return _gap(waits, features, forgotten, of)


def tower_gap(model: WorldModel, waits: Waits, reach: float, of: Target = "color") -> Gap:
  """What the inputs of the tower's layers hold in the frame that actions read at the decision.

  Args:
    model: with a memory of constant size.
    waits: films.
    reach: of its actions, latent frames (`action_reach`): the closed form is that of a window so long.
    of: what is to be told.

  Raises:
    KairosError: as `record`, or scikit-learn is missing.
  """
  recording = record(model, waits.frames, DelayedCueReach.instruction)
  now = np.asarray(num_latents(model.codec, waits.decided + 1)) - 1
  below = [out for layer, out in sorted(recording.out.items())][:-1]
  features = [np.concatenate([out[last, i].ravel() for out in below]) for i, last in enumerate(now)]
  forgotten = {int(delay): bool(last - reach > 1) for delay, last in zip(waits.delay, now, strict=True)}
  return _gap(waits, features, forgotten, of)


def _gap(waits: Waits, features: Sequence[np.ndarray], forgotten: dict[int, bool], of: Target) -> Gap:
  """`features` are one vector for each film; those of one delay are of one length."""
  delays = tuple(int(delay) for delay in np.unique(waits.delay))
  risks, closed = [], []
  for delay in delays:
    rows = np.flatnonzero(waits.delay == delay)
    here, scenes = np.stack([features[i] for i in rows.tolist()]), waits.scene[rows]
    if of == "color":
      risks.append(risk(here, waits.label[rows], scenes))
      gap = forgotten_gap(len(np.unique(waits.label)))
    else:
      risks.append(action_risk(here, waits.action[rows], scenes))
      of_scene = np.stack([waits.action[rows][scenes == scene] for scene in np.unique(scenes)])
      gap = float(of_scene.var(axis=1).sum(axis=-1).mean())
    closed.append(gap if forgotten[delay] else 0.0)
  return Gap(delays, np.array(risks), np.array(closed))


def risk(features: Float[np.ndarray, "N F"], labels: Int[np.ndarray, "N"], groups: Int[np.ndarray, "N"]) -> float:
  """E|Y - Z|^2 of the best of several predictors of a class, on groups that they were not fitted on.

  They are logistic regressions of two strengths, nearest neighbors, and the classes' shares, which know nothing.

  Raises:
    KairosError: scikit-learn is missing.
  """
  dummy, linear_model, model_selection, neighbors, pipeline, preprocessing = _sklearn()
  predictors = [
    dummy.DummyClassifier(strategy="prior"),
    linear_model.LogisticRegression(C=1.0, max_iter=300),
    linear_model.LogisticRegression(C=100.0, max_iter=300),
    neighbors.KNeighborsClassifier(3),
  ]
  truth = labels[:, None] == np.unique(labels)
  folds = model_selection.GroupKFold(FOLDS)
  found = []
  for predictor in predictors:
    steps = pipeline.make_pipeline(preprocessing.StandardScaler(), predictor)
    told = model_selection.cross_val_predict(steps, features, labels, groups=groups, cv=folds, method="predict_proba")
    found.append(float(np.square(told - truth).sum(axis=1).mean()))
  return min(found)


def action_risk(
  features: Float[np.ndarray, "N F"], actions: Float[np.ndarray, "N A"], groups: Int[np.ndarray, "N"]
) -> float:
  """E|Y - Z|^2 of the best of several predictors of an action, on groups that they were not fitted on.

  They are ridge regressions of two strengths, nearest neighbors, and the mean, which knows nothing.

  Raises:
    KairosError: scikit-learn is missing.
  """
  dummy, linear_model, model_selection, neighbors, pipeline, preprocessing = _sklearn()
  predictors = [
    dummy.DummyRegressor(),
    linear_model.Ridge(1.0),
    linear_model.Ridge(100.0),
    neighbors.KNeighborsRegressor(3),
  ]
  folds, found = model_selection.GroupKFold(FOLDS), []
  for predictor in predictors:
    steps = pipeline.make_pipeline(preprocessing.StandardScaler(), predictor)
    told = model_selection.cross_val_predict(steps, features, actions, groups=groups, cv=folds)
    found.append(float(np.square(told - actions).sum(axis=1).mean()))
  return min(found)


def _sklearn() -> tuple[Any, ...]:
  try:
    from sklearn import dummy, linear_model, model_selection, neighbors, pipeline, preprocessing
  except ImportError as error:
    raise KairosError("this needs scikit-learn; pip install kairos-jax[notebook]") from error
  return dummy, linear_model, model_selection, neighbors, pipeline, preprocessing


def longest_delay(reach: float, stride: int) -> float:
  """The longest delay (frames, of whole latents) after which actions of this reach can still see the cue.

  At the decision the cue's last latent frame is 1 + delay / stride latent frames old; below 0 it is never seen.
  """
  return stride * (reach - 1)


def row(model: WorldModel, delays: Sequence[int], task: Task) -> dict[str, Any]:
  """What the grid of an ablation keeps of a trained tower: its reach, and its risk of the color at each delay.

  The risk is of the plain task: with a swap or distraction it is not measured. JSON has no infinity: a reach of None is
  without end.
  """
  latents = action_reach(model.saved.model_config)
  measured = [] if task.swap or task.distract else delays
  gap = Gap((), np.zeros(0), np.zeros(0))
  if measured:
    waits = film(model.saved.frame_size[0], measured, colors=task.colors, seed=_SEED)
    gap = tower_gap(model, waits, latents)
  frames = longest_delay(latents, model.codec.time_stride)
  return {
    "reach_latents": latents if math.isfinite(latents) else None,
    "reach_delay": frames if math.isfinite(frames) else None,
    "risk": {delay: float(value) for delay, value in zip(gap.delays, gap.risk, strict=True)},
    "closed_risk": {delay: float(value) for delay, value in zip(gap.delays, gap.closed, strict=True)},
  }


_SEED = 13  # of the scenes that are filmed; those of training are named by larger numbers
