"""Stops a run whose loss is not finite or explodes, and keeps the evidence."""

import json
import math
import shutil
import statistics
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from kairos_jax.errors import KairosError
from kairos_jax.files import replaced
from kairos_jax.parallel import process
from kairos_jax.training.checkpoint import Checkpoints
from kairos_jax.training.run_config import RecoveryConfig
from kairos_jax.training.state import TrainState

_WINDOW, _WARMUP = 100, 50  # steps
_NAMED_IDS = 8


class LossGuard:
  """Knows which loss is too large: more than `factor` times the running median, once 50 steps have been seen."""

  def __init__(self, factor: float, losses: Iterable[float] = ()):
    """`losses` are those of an earlier `LossGuard`, restored from a checkpoint."""
    self._factor = factor
    self._losses = deque(losses, maxlen=_WINDOW)

  @property
  def losses(self) -> list[float]:
    """The last losses, at most 100, oldest first."""
    return list(self._losses)

  def limit(self) -> np.float32:
    """The largest loss to accept next; inf until 50 steps were seen or where the median is not positive."""
    median = statistics.median(self._losses) if len(self._losses) >= _WARMUP else 0.0
    return np.float32(self._factor * median if median > 0 else math.inf)

  def judge(self, metrics: dict[str, float], limit: np.float32) -> str | None:
    """Says what is wrong with a step that ran under `limit`; None, and the loss remembered, if nothing is."""
    if not metrics["finite"]:
      return f"loss {metrics['loss']:.4g} or gradient norm {metrics['grad_norm']:.4g} is not finite"
    if metrics["loss"] > limit:
      return f"loss {metrics['loss']:.4g} exceeds {limit:.4g}, {self._factor:g} x the median of the last steps"
    self._losses.append(metrics["loss"])
    return None


class Recovery:
  """Where a refused update need not end the run: its batch is left out and the learning rate lowered.

  All of it depends on the recoveries so far, which the checkpoint keeps, so a run that is killed recovers the same way.
  """

  def __init__(self, config: RecoveryConfig | None, past: Iterable[dict[str, Any]] = ()):
    """`past` are those of an earlier `Recovery`, restored from a checkpoint."""
    self._config = config
    self._past = list(past)

  @property
  def past(self) -> list[dict[str, Any]]:
    """The recoveries so far, as JSON values."""
    return list(self._past)

  @property
  def lr_scale(self) -> np.float32:
    """What the learning rate is multiplied with now."""
    return np.float32(self._config.lr_factor ** len(self._past) if self._config else 1)

  def begin(self, step: int, reason: str, ids: list[str]) -> bool:
    """Notes that the update after `step` was refused; False if there is no attempt left."""
    if self._config is None or len(self._past) >= self._config.attempts:
      return False
    self._past.append({"step": step, "reason": reason, "ids": ids})
    return True

  def logged(self) -> dict[str, float]:
    """What a log line says of it: the learning rate's factor, once it is not 1."""
    return {"lr_scale": float(self.lr_scale)} if self._past else {}

  def __str__(self) -> str:
    attempts = self._config.attempts if self._config else 0
    ids = _named(self._past[-1]["ids"])
    return f"recovery {len(self._past)} of {attempts}: learning rate x {self.lr_scale:g}, without records {ids}"


def stop(workdir: Path, state: TrainState, reason: str, metrics: dict[str, float], ids: list[str]) -> NoReturn:
  """Saves the state from before the bad update and what is known of it, and ends the run.

  Writes `{workdir}/failed-{step}` (a checkpoints folder, see `checkpoint.load_params`) and `{workdir}/failure.json`.

  Args:
    workdir: folder of the run.
    state: the state that the bad update was refused by; `step` is the number of updates it has seen.
    reason: see `LossGuard.judge`.
    metrics: of the bad step.
    ids: record ids of its batch.

  Raises:
    KairosError: always.
  """
  step = int(state.step)
  folder = workdir / f"failed-{step}"
  if process.is_first():
    shutil.rmtree(folder, ignore_errors=True)  # from the same failure, met again after a restart
  with Checkpoints(folder, max_to_keep=1) as checkpoints:
    checkpoints.save(state, meta={"reason": reason})
  readable = {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
  report = {"step": step, "reason": reason, "metrics": readable, "ids": ids}
  if process.is_first():
    with replaced(workdir / "failure.json") as partial:
      Path(partial).write_text(json.dumps(report, indent=2) + "\n")
  raise KairosError(
    f"stopped after step {step}: {reason}; records {_named(ids)}; state in {folder}, details in failure.json"
  )


def _named(ids: list[str]) -> str:
  return ", ".join(ids[:_NAMED_IDS]) + (f" and {len(ids) - _NAMED_IDS} more" if len(ids) > _NAMED_IDS else "")
