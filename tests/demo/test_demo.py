"""The whole demo at lower numbers, as a user runs it; then what the README says one can do with its model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kairos_jax.cli.main import main

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # run by CI all the same, as `make test-demo`


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
  out = tmp_path_factory.mktemp("demo")
  command = [Path(sys.executable).with_name("kairos"), "demo", "--quick", f"--out={out}"]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
  assert done.returncode == 0, done.stderr[-3000:]
  return out, done.stdout


def test_everything_is_left_on_disk(demo):
  out, printed = demo
  for name in (
    "report.html",
    "results.json",
    "closed_loop.mp4",
    "imagination.mp4",
    "imagination.png",
    "model/model.json",
  ):
    assert (out / name).stat().st_size > 500, name
  for stage in ("physics", "hand", "robot"):
    assert (out / stage / "metrics.jsonl").read_text().count("\n") >= 1
  assert "report.html" in printed


def test_numbers_are_those_of_a_fair_comparison(demo):
  results = json.loads((demo[0] / "results.json").read_text())
  success = results["success"]
  assert success["expert"] == 1.0
  assert success["random"] <= 0.5
  assert set(success) == {"model", "hidden", "blind", "random", "expert"}
  for who in ("model", "last_frame"):
    for measure in ("psnr", "ssim"):
      assert len(results[who][measure]) == 16 and np.isfinite(results[who][measure]).all()
    assert any(share is not None for share in results[who]["found"])
  low, high = results["psnr_gain_interval"]
  assert low <= results["psnr_gain"] <= high
  assert results["latency_ms"]["action-only"] < results["latency_ms"]["joint"]


def test_the_report_needs_nothing_beside_it(demo):
  page = (demo[0] / "report.html").read_text()
  assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)


def test_the_quickstart_of_the_readme_runs(demo, monkeypatch):
  code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
  frames = np.zeros((5, 48, 48, 3), np.uint8)
  names = {"frames": frames, "state": np.zeros(3, np.float32), "new_frames": frames[:4]}
  exec(code.replace("runs/demo", str(demo[0])), names)
  assert names["actions"].shape == (8, 3)
  assert names["future"].shape == (1, 16, 48, 48, 3)
  assert names["stream"].memory.position.tolist() == [3]


def test_a_finished_run_is_not_trained_again_and_another_config_is_refused(demo, capsys):
  workdir = f"--workdir={demo[0]}"
  assert main(["train", f"--config={ROOT}/experiments/cue_reach.py", workdir]) == 2
  assert "was started with config." in capsys.readouterr().err
