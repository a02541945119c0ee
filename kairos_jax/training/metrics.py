"""Metrics on disk: one JSON object a line, and TensorBoard where tensorflow is installed."""

import importlib.util
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
from clu import metrics as clu_metrics

from kairos_jax.files import replaced
from kairos_jax.parallel import process


def average(window: list[dict[str, float]]) -> dict[str, float]:
  """Mean of each metric over those of the steps since the last log point that have it."""
  names = dict.fromkeys(name for step in window for name in step)
  values = {name: jnp.array([step[name] for step in window if name in step]) for name in names}
  return {name: float(clu_metrics.Average.from_model_output(v).compute()) for name, v in values.items()}


MEANS = ("val/video", "val/action")  # of the validation losses over their noise levels


def loss_names(levels: Sequence[float], actions: bool) -> list[str]:
  """What validation measures: val/video/LEVEL for each level and val/video, their mean; and the same of the actions."""
  parts = ("video", "action") if actions else ("video",)
  return [name for part in parts for name in (*(f"val/{part}/{level:g}" for level in levels), f"val/{part}")]


def read(path: Path) -> list[dict]:
  """Reads `metrics.jsonl`, oldest first; an unfinished last line, left by a kill, is passed over."""
  records = []
  for line in path.read_text().splitlines() if path.exists() else []:
    try:
      records.append(json.loads(line))
    except ValueError:
      break
  return records


class MetricLog:
  """Appends to `{workdir}/metrics.jsonl`, in the first process alone; use as a context manager."""

  def __init__(self, workdir: Path, step: int):
    """Opens the log at `step`: lines beyond it were written by a run that was killed before its next checkpoint.

    Args:
      workdir: folder of the run.
      step: the step restored, 0 for a fresh run.
    """
    path = workdir / "metrics.jsonl"
    self._last = (step, time.monotonic())
    self._file, self._tensorboard = None, None
    if not process.is_first():
      return
    kept = [json.dumps(record) + "\n" for record in read(path) if record["step"] <= step]
    with replaced(path) as partial:
      Path(partial).write_text("".join(kept))
    self._file = path.open("a")
    if importlib.util.find_spec("tensorflow"):
      from clu import metric_writers

      self._tensorboard = metric_writers.SummaryWriter(str(workdir))

  def __enter__(self) -> "MetricLog":
    return self

  def __exit__(self, *_) -> None:
    if self._file:
      self._file.close()
    if self._tensorboard:
      self._tensorboard.close()

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes one line: step, time (Unix, s), steps_per_second since the last line, and `values`; on disk on return."""
    last_step, last_time = self._last
    self._last = (step, time.monotonic())
    rate = (step - last_step) / (self._last[1] - last_time)
    self._append(step, {"steps_per_second": rate} | values)

  def write_validation(self, step: int, losses: dict[str, float], seconds: float) -> None:
    """Writes a line of what was measured beside the steps, whose rate does not count the time that this took."""
    self._last = (self._last[0], self._last[1] + seconds)
    self._append(step, losses | {"val/seconds": seconds})

  def _append(self, step: int, values: dict[str, float]) -> None:
    if self._file:
      self._file.write(json.dumps({"step": step, "time": time.time()} | values) + "\n")
      self._file.flush()
      os.fsync(self._file.fileno())
    if self._tensorboard:
      self._tensorboard.write_scalars(step, values)
