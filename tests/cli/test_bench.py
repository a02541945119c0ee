"""`kairos bench`: its table, its files, and how it says no."""

import json

import pytest
from PIL import Image

from kairos_jax.bench import scaling
from kairos_jax.cli import bench
from kairos_jax.cli import main as cli
from kairos_jax.errors import KairosError


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


@pytest.mark.parametrize("argv, line", [([], "got nothing"), (["speed"], "bench takes one of scaling; got speed")])
def test_a_mistake_is_one_line(argv, line, capsys):
  assert cli.main(["bench", *argv]) == 2
  err = capsys.readouterr().err
  assert err.startswith("kairos: ") and line in err and err.count("\n") == 1
