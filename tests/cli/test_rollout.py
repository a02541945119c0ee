"""`kairos rollout`: its files, an early end, and how it says no."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from data_pipelines.simulate import generate
from data_pipelines.simulate.filming import simulated_clip
from kairos_jax import media, seeds
from kairos_jax.cli import main as cli
from kairos_jax.evaluation import rollout
from kairos_jax.interop import saved_model
from tests import tiny


@pytest.fixture
def folder(tmp_path, tiny_saved, monkeypatch):
  """A run's folder with a tiny model; the simulator gives a clip of noise and notes what it was asked for."""
  saved_model.save(tmp_path / "model", tiny_saved)

  def episode(*asked):
    (tmp_path / "asked").write_text(repr(asked))
    yield simulated_clip(list(tiny.frames(21)), source="robot", embodiment="slide_arm", caption="", instruction="go on")

  monkeypatch.setattr(generate, "generate", episode)
  return tmp_path


def test_what_it_writes_and_says(folder, capsys):
  assert cli.main(["rollout", f"--model={folder}", "--minutes=0.0983", f"--out={folder}/a/b"]) == 0
  seed = seeds.derive(0, "evaluation", "rollout")  # seed 0 itself names the clips of the demo's training data
  assert (folder / "asked").read_text() == f"('robot', 1, {seed}, 16)"
  costs = [json.loads(line) for line in (folder / "a/b/rollout.jsonl").read_text().splitlines()]
  assert [cost["segment"] for cost in costs] == list(range(1, 16))  # 5.9 s of 10 frames are 14.75 segments of 4
  assert costs[-1]["imagined_seconds"] == 6.0 and all(c["seconds"] > 0 and c["resident_bytes"] > 1e7 for c in costs)
  video = media.read_video(folder / "a/b/rollout.mp4")
  assert len(video) == 9 + 60
  assert np.abs(video[8, ::4, ::4].astype(int) - tiny.frames(21)[8]).mean() < 30  # begins with what was seen
  assert Image.open(folder / "a/b/rollout.png").width > 600
  out = capsys.readouterr().out
  assert re.search(r"0:00:06 in \d:\d\d:\d\d: 15 segments of 4 frames\n", out)
  assert "ratio" in out and "at the end" in out


def test_an_interrupt_keeps_what_was_written(folder, monkeypatch, capsys):
  def interrupted(*args):
    yield tiny.frames(16)
    yield tiny.frames(16)
    raise KeyboardInterrupt

  monkeypatch.setattr(rollout, "rollout", interrupted)
  assert cli.main(["rollout", f"--model={folder}", "--minutes=1"]) == 130
  assert len(media.read_video(folder / "rollout/rollout.mp4")) == 9 + 32
  assert len((folder / "rollout/rollout.jsonl").read_text().splitlines()) == 2
  assert (folder / "rollout/rollout.png").exists()
  assert "interrupted; written to" in capsys.readouterr().out


def test_an_interrupt_before_the_first_segment(folder, monkeypatch):
  def interrupted(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(rollout, "rollout", interrupted)
  assert cli.main(["rollout", f"--model={folder}"]) == 130
  assert len(media.read_video(folder / "rollout/rollout.mp4")) == 9


@pytest.mark.parametrize(
  "argv, line",
  [
    (["--model=nowhere"], "nowhere holds no finished model"),
    (["--minutes=0"], "flag --minutes=0: "),
    (["now"], "rollout takes no argument but flags; got now"),
  ],
)
def test_a_mistake_is_one_line(argv, line, capsys):
  assert cli.main(["rollout", *argv]) == 2
  err = capsys.readouterr().err
  assert err.startswith("kairos: ") and line in err and err.count("\n") == 1


def test_a_model_whose_memory_grows_writes_nothing(tmp_path, capsys):
  saved_model.save(tmp_path / "model", tiny.saved(tiny.model_config(layers=("FA",))))
  assert cli.main(["rollout", f"--model={tmp_path}"]) == 2
  assert "FA layers of this model keep all frames" in capsys.readouterr().err
  assert not (tmp_path / "rollout").exists()
