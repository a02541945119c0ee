"""`kairos data`: what it builds, what it shows, and how it says no."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines import shards
from data_pipelines.records import Clip
from kairos_jax.cli import data
from kairos_jax.cli import main as cli
from kairos_jax.errors import KairosError


def clip(index):
  frames = 5 + index
  rng = np.random.default_rng(index)
  return Clip(
    cameras={"front": np.full((frames, 16, 16, 3), 40 * index, np.uint8)},
    video_fps=10.0,
    action_hz=20.0,
    state=rng.uniform(0, 1, (2 * frames, 3)).astype(np.float32),
    action=rng.uniform(-2, 2, (2 * frames - 1, 3)).astype(np.float32),
    state_mask=np.ones(2 * frames, bool),
    action_mask=np.ones(2 * frames - 1, bool),
    embodiment="slide_arm",
    source="squares",
    license="CC-BY-4.0",
    caption=f"a square of brightness {index}",
    instruction="",
  )


def test_show_prints_a_table_and_draws_the_clips(tmp_path, capsys):
  shards.write_shards(map(clip, range(3)), tmp_path, "squares", per_shard=2)
  assert cli.main(["data", "show", f"--folder={tmp_path}", "--clips=2"]) == 0
  out = capsys.readouterr().out
  assert "5 to 7" in out and "front 16x16" in out and "brightness 1" in out and "brightness 2" not in out
  assert "slide_arm" in out and "CC-BY-4.0" in out and "10 Hz" in out and "20 Hz" in out
  assert "state tip_x" in out and "action tip_z" in out and "fraction" in out
  assert Image.open(tmp_path / "contact_sheet.png").size[1] == 2 * (32 + 18 + 4) + 4


def test_show_tells_of_what_cannot_be_read(tmp_path, capsys):
  files = shards.write_shards(map(clip, range(4)), tmp_path, "squares", per_shard=2)
  (tmp_path / files[0]).unlink()
  assert cli.main(["data", "show", f"--folder={tmp_path}"]) == 0
  out = capsys.readouterr().out
  assert "2 of 4 records could not be read" in out and "brightness 3" in out


def test_build_passes_its_flags_on(tmp_path, monkeypatch):
  generate = pytest.importorskip("data_pipelines.simulate.generate")
  calls = []
  monkeypatch.setattr(generate, "build", lambda *args, **kwargs: calls.append((*args, kwargs)))
  assert cli.main(["data", "build", f"--out={tmp_path}", "--counts=physics:3,robot:5", "--seed=7", "--size=32"]) == 0
  assert calls == [(str(tmp_path), {"physics": 3, "robot": 5}, 7, 32, {})]


@pytest.mark.parametrize("text", ["", "physics", "physics:", "physics:-3", "physics:3,", ":3"])
def test_bad_counts(text):
  with pytest.raises(KairosError, match="is not KIND:NUMBER"):
    data.parse_counts(text)


@pytest.mark.parametrize(
  "argv, line",
  [
    ([], "data takes one of build, show; got neither"),
    (["burn"], "data takes one of build, show; got burn"),
    (["build"], "data build needs --out=FOLDER"),
    (["show"], "data show needs --folder=FOLDER"),
    (["show", "--folder=nowhere"], "no dataset in nowhere"),
    (["build", "--out=x", "--size=3"], "flag --size=3: "),
  ],
)
def test_a_mistake_is_one_line(argv, line, capsys):
  assert cli.main(["data", *argv]) == 2
  err = capsys.readouterr().err
  assert err.startswith("kairos: ") and line in err and err.count("\n") == 1
