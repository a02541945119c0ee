"""`kairos bench`: its tables, its files, its exit codes, and how it says no."""

import json

import numpy as np
import pytest
from PIL import Image

from kairos_jax.cli import bench
from kairos_jax.cli import main as cli
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import latency, scaling
from kairos_jax.interop import saved_model
from kairos_jax.timing import Times
from pallas_kernels import bench as kernels_bench
from pallas_kernels import workload
from tests import tiny
from tests.pallas_kernels import toy


@pytest.fixture
def toys(monkeypatch):
  monkeypatch.setattr(workload, "OPS", {"toy": "tests.pallas_kernels.toy"})
  monkeypatch.setattr(kernels_bench, "RUNS", 1)
  monkeypatch.setattr(kernels_bench, "SECONDS", 0.0)


@pytest.mark.slow
def test_scaling_prints_and_writes(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(scaling, "TOWERS", {"hybrid": ("SWA",), "full attention": ("FA",)})
  monkeypatch.setattr(scaling, "RUNS", 1)
  monkeypatch.setattr(scaling, "SECONDS", 0.0)
  verified = []
  monkeypatch.setattr(scaling, "verify", verified.append)
  assert cli.main(["bench", "scaling", "--frames=96,24", f"--out={tmp_path}/new/scaling"]) == 0
  assert verified == [("SWA",), ("FA",)]
  out = capsys.readouterr().out
  assert out.count("full attention") == 3 and "hybrid          time ~ frames^" in out
  report = json.loads((tmp_path / "new" / "scaling.json").read_text())
  assert [(p["tower"], p["frames"]) for p in report["points"]] == [
    (tower, frames) for tower in ("hybrid", "full attention") for frames in (24, 96)
  ]
  assert all(p["seconds"] > 0 for p in report["points"]) and report["tokens_per_frame"] == 48
  powers = {tower: power["bytes"] for tower, power in report["exponents"].items()}
  assert powers["hybrid"] <= 1.1 < 1.6 < powers["full attention"]  # memory is planned, so the same every time
  assert Image.open(tmp_path / "new" / "scaling.png").width > 600


@pytest.mark.parametrize("text", ["", "8", "8,8", "8,0", "8,-1", "8,x", "8,16,"])
def test_bad_frames(text):
  with pytest.raises(KairosError, match="two or more different positive numbers"):
    bench.parse_frames(text)


def test_kernels_prints_times_and_what_is_missing(toys, monkeypatch, capsys):
  monkeypatch.setattr(toy, "peers", lambda case: {"fable": "fable is not installed; it comes with: pip install fable"})
  assert cli.main(["bench", "kernels"]) == 0
  out = capsys.readouterr().out
  assert "as measured here" in out and out.count("xla") == 2 and out.count("of the roofline") == 2
  assert out.count("pip install fable") == 2


def test_kernels_fails_if_a_result_is_wrong(toys, monkeypatch, capsys):
  monkeypatch.setattr(toy, "peers", lambda case: {"fable": kernels_bench.jax_runner(lambda x, w: (x,))})
  assert cli.main(["bench", "kernels", "--json"]) == 1
  report = json.loads(capsys.readouterr().out)
  assert {result["name"]: result["seconds"] is None for result in report["results"]} == {"fable": True, "xla": False}


def test_latency_prints_both_ways_in_milliseconds(tmp_path, tiny_saved, monkeypatch, capsys):
  saved_model.save(tmp_path / "model", tiny_saved)
  asked = []

  def measure(model, frames, instruction, *, rounds):
    asked.append((frames.shape, frames.dtype, rounds))
    return {"action-only": Times(0.0123, 0.02, 7, 0.0123), "joint": Times(0.5, 0.75, 7, 0.5)}

  monkeypatch.setattr(latency, "measure", measure)
  assert cli.main(["bench", "latency", f"--model={tmp_path}", "--rounds=7"]) == 0
  assert asked == [((5, tiny.SIZE, tiny.SIZE, 3), np.uint8, 7)]
  head, *_, first, second = capsys.readouterr().out.splitlines()
  assert "4 actions" in head
  assert first.split() == ["action-only", "12.3", "20.0", "7"] and second.split() == ["joint", "500.0", "750.0", "7"]


@pytest.mark.parametrize(
  "argv, line",
  [
    ([], "got nothing"),
    (
      ["speed"],
      f"bench takes one of {', '.join(bench.MEASURES)}; got speed",
    ),
    (["kernels", "--case=64k"], "no case '64k'; did you mean 4k?"),
    (["kernels", "--op=toi"], "no op 'toi'; did you mean toy?"),
    (["latency"], "bench latency needs --model=FOLDER"),
    (["serving"], "bench serving needs --model=FOLDER"),
    (["students"], "bench students needs --model=TEACHER and --students=FOLDER,..."),
    (["latency", "--model=nowhere"], "nowhere holds no finished model"),
  ],
)
def test_a_mistake_is_one_line(toys, argv, line, capsys):
  assert cli.main(["bench", *argv]) == 2
  err = capsys.readouterr().err
  assert err.startswith("kairos: ") and line in err and err.count("\n") == 1
