"""Stops a run whose loss is not finite or explodes, and keeps the evidence."""

import json
import math
import shutil
import statistics
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import numpy as np

from kairos_jax.errors import KairosError
from kairos_jax.files import replaced
from kairos_jax.training.checkpoint import Checkpoints
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
  shutil.rmtree(folder, ignore_errors=True)  # from the same failure, met again after a restart
  with Checkpoints(folder, max_to_keep=1) as checkpoints:
    checkpoints.save(state, meta={"reason": reason})
  readable = {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
  report = {"step": step, "reason": reason, "metrics": readable, "ids": ids}
  with replaced(workdir / "failure.json") as partial:
    Path(partial).write_text(json.dumps(report, indent=2) + "\n")
  named = ", ".join(ids[:_NAMED_IDS]) + (f" and {len(ids) - _NAMED_IDS} more" if len(ids) > _NAMED_IDS else "")
  raise KairosError(f"stopped after step {step}: {reason}; records {named}; state in {folder}, details in failure.json")
