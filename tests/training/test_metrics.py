import json

import pytest

from kairos_jax.parallel import process
from kairos_jax.training.metrics import MetricLog, average, read
from kairos_jax.training.workdir import claim_workdir


def test_average():
  assert average([{"loss": 1.0, "norm": 4.0}, {"loss": 2.0, "norm": 8.0}]) == {"loss": 1.5, "norm": 6.0}


def test_lines_are_on_disk_at_once(tmp_path):
  with MetricLog(tmp_path, 0) as log:
    log.write(5, {"loss": 0.5})
    (record,) = read(tmp_path / "metrics.jsonl")
  assert record["step"] == 5 and record["loss"] == 0.5
  assert record["steps_per_second"] > 0 and record["time"] > 1e9


@pytest.mark.parametrize("tail", ["", '{"step": 50, "lo', '{"step"\n'])
def test_resumed_log_has_each_step_once(tmp_path, tail):
  path = tmp_path / "metrics.jsonl"
  path.write_text("".join(json.dumps({"step": step, "loss": 1 / 3}) + "\n" for step in (10, 20, 30, 40)) + tail)
  with MetricLog(tmp_path, 25) as log:
    log.write(30, {"loss": 0.25})
  records = read(path)
  assert [(record["step"], record["loss"]) for record in records] == [(10, 1 / 3), (20, 1 / 3), (30, 0.25)]


def test_no_log_reads_as_empty(tmp_path):
  assert read(tmp_path / "metrics.jsonl") == []


def test_only_the_first_process_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(process.jax, "process_index", lambda: 1)
  with MetricLog(tmp_path, 0) as log:
    log.write(5, {"loss": 0.5})
  with claim_workdir(tmp_path / "run", {"seed": 0}):
    pass
  assert not list(tmp_path.iterdir())
  monkeypatch.setattr(process.jax, "process_index", lambda: 0)
  with MetricLog(tmp_path, 0) as log:
    log.write(5, {"loss": 0.5})
  assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
