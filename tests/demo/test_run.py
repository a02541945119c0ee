"""The demo's own part, everything that it runs replaced by quick stand-ins: what it asks for, writes and shows."""

import dataclasses
import json

import numpy as np
import pytest

from kairos_jax.cli import main as cli
from kairos_jax.demo import run as demo
from kairos_jax.evaluation import video_metrics
from kairos_jax.evaluation.comparison import ENTRIES, HELD, Score
from kairos_jax.evaluation.foresight import Foresight, Quality
from kairos_jax.interop import saved_model
from kairos_jax.timing import Times
from tests import tiny

EPISODES = 11


@pytest.fixture
def asked(tmp_path, tiny_saved, monkeypatch):
  """What the stand-ins were asked for; a trained model is there, and so are its metrics."""
  asked = {}
  clips = 6

  def train(config, out):
    saved_model.save(out / "model", tiny_saved)
    for stage in ("physics", "hand", "robot"):
      (out / stage).mkdir()
      lines = [{"step": n, "time": 60.0 * n, "loss_video": 1 / n, "loss_action": 1 / n} for n in (1, 2, 3)]
      lines += [{"step": 3, "time": 240.0, "val/video/0.25": 0.4, "val/video": 0.4}]
      (out / stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out / "model"

  def compare(model, names, *, episodes, record, film=()):
    asked.setdefault("compare", []).append((list(names), episodes, record.path, film))
    films = [tiny.frames(3 + i, seed=i) for i in range(8)]
    return {name: Score(7, episodes, 0, films if name in film else []) for name in names}

  def foresee(model, video, instructions):
    seen, future = video[:, :5], video[:, 5:]
    imagined = np.clip(future.astype(int) + 9, 0, 255).astype(np.uint8)
    nothing = np.full((clips, 16), np.nan)
    qualities = [
      Quality(video_metrics.psnr(x, future), video_metrics.ssim(x, future), nothing, nothing, nothing)
      for x in (imagined, np.repeat(seen[:, -1:], 16, axis=1))
    ]
    return Foresight(imagined, *qualities, 10.0)

  def measure(model, frames, instruction, *, rounds):
    asked["latency"] = (frames.shape, instruction, rounds)
    return {"action-only": Times(0.0123, 0.02, rounds, 0.0123), "joint": Times(0.5, 0.7, rounds, 0.5)}

  video = np.stack([tiny.frames(21, seed=i) for i in range(clips)])
  monkeypatch.setattr(demo, "build", lambda *what, progress: asked.update(build=what))
  monkeypatch.setattr(demo.curriculum, "run_claimed", train)
  monkeypatch.setattr(demo.comparison, "compare", compare)
  monkeypatch.setattr(demo.foresight_lib, "unseen_clips", lambda model, count: (video, ["go"] * clips))
  monkeypatch.setattr(demo.foresight_lib, "foresee", foresee)
  monkeypatch.setattr(demo.latency, "measure", measure)
  monkeypatch.setattr(demo, "QUICK", dataclasses.replace(demo.QUICK, episodes=EPISODES))
  return asked


def test_what_it_asks_for_writes_and_says(asked, tmp_path, capsys):
  out = tmp_path / "run"
  assert cli.main(["demo", "--quick", "--seed=3", f"--out={out}"]) == 0
  assert asked["build"][2:] == (3, 48)
  path = out / "evaluation/episodes.jsonl"
  assert asked["compare"] == [(list(ENTRIES), EPISODES, path, {"model": 8}), (list(HELD), EPISODES, path, ())]
  assert asked["latency"] == ((5, 16, 16, 3), "go", demo.QUICK.latency_repeats)
  for name in ("report.html", "closed_loop.mp4", "imagination.mp4", "imagination.png"):
    assert (out / name).stat().st_size > 500, name
  results = json.loads((out / "results.json").read_text())
  assert results["success"] == dict.fromkeys(ENTRIES, 7 / EPISODES)
  np.testing.assert_allclose(results["interval"]["blind"], [0.3538, 0.8483], atol=1e-4)
  assert results["held"] == {str(frames): [7, EPISODES] for frames in (0, 8, 16, 32)}
  assert len(results["model"]["psnr"]) == 16 and results["model"]["found"] == [None] * 16
  low, high = results["psnr_gain_interval"]
  assert low <= results["psnr_gain"] <= high and results["psnr_gain"] > 10
  page = (out / "report.html").read_text()
  assert "held out" in page and "first 5 frames" in page and "12.3 ms" in page and page.count("<svg") == 4
  printed = capsys.readouterr().out
  assert f"success over {EPISODES} unseen episodes: model 0.64 (0.35 to 0.85)" in printed
  assert "ahead in 16 of 16 frames" in printed and "find again: - and -" in printed
  assert "action-only 12 ms, joint 500 ms" in printed and f"{out}/report.html" in printed
