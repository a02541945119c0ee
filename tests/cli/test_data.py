"""`kairos data`: what it builds, what it shows, and how it says no."""

from unittest.mock import ANY

import numpy as np
import pytest
from PIL import Image

from data_pipelines import shards
from data_pipelines.records import Clip
from data_pipelines.sources import KINDS, open_source
from kairos_jax.cli import data
from kairos_jax.cli import main as cli
from kairos_jax.errors import KairosError
from tests.data_pipelines.sources.contract import pictures
from tests.data_pipelines.sources.media import write_video


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
  assert calls == [(str(tmp_path), {"physics": 3, "robot": 5}, 7, 32, {"progress": ANY})]


def test_import_of_a_video_folder_and_what_it_says(tmp_path, capsys):
  for number in range(3):
    write_video(tmp_path / f"in/{number}.mp4", pictures(number, 6, (32, 48)), 25)
  (tmp_path / "in/3.mp4").write_bytes(b"nothing")
  line = ["data", "import", "--from=videos", f"--path={tmp_path}/in", f"--out={tmp_path}/out", "--embodiment=hand"]
  assert cli.main([*line, "--picture_size=16x16", "--video_fps=12.5"]) == 0
  out = capsys.readouterr().out
  assert "3 episodes, 3 clips; left out: 1 video cannot be read" in out
  assert cli.main(["data", "show", f"--folder={tmp_path}/out"]) == 0
  out = capsys.readouterr().out
  assert "front 16x16" in out and "12.5 Hz" in out and "hand" in out


def test_import_and_export_have_a_page_of_help(capsys):
  assert cli.main(["data", "--help"]) == 0
  out = capsys.readouterr().out
  assert all(f"  {kind} " in out for kind in KINDS) and "--from " in out and "kairos data import --from=rlds" in out


def test_export_writes_lerobot(tmp_path, capsys):
  pytest.importorskip("pyarrow")
  shards.write_shards(map(clip, range(3)), tmp_path / "in", "squares", per_shard=2)
  assert cli.main(["data", "export", f"--folder={tmp_path}/in", f"--out={tmp_path}/out"]) == 0
  assert "3 episodes of LeRobot v3.0; 0 records could not be read" in capsys.readouterr().out
  assert len(list(open_source("lerobot", tmp_path / "out"))) == 3


@pytest.mark.parametrize("text", ["", "physics", "physics:", "physics:-3", "physics:3,", ":3"])
def test_bad_counts(text):
  with pytest.raises(KairosError, match="is not KIND:NUMBER"):
    data.parse_counts(text)


@pytest.mark.parametrize(
  "argv, line",
  [
    ([], "data takes one of build, show, import, export, latents, ingest, curate, caption, pack, stats, inspect; got"),
    (["burn"], "stats, inspect; got burn"),
    (["latents", "--out=x"], "data latents needs --config=FILE.py and --out=FOLDER"),
    (["build"], "data build needs --out=FOLDER"),
    (["show"], "data show needs --folder=FOLDER"),
    (["show", "--folder=nowhere"], "no dataset in nowhere"),
    (["build", "--out=x", "--size=3"], "flag --size=3: "),
    (["import"], "data import needs --from=KIND --path=PATH --out=FOLDER; KIND is one of lerobot, rlds, droid"),
    (["import", "--from=tapes", "--path=.", "--out=x"], "unknown format 'tapes': one of lerobot, rlds"),
    (["import", "--from=videos", "--path=nowhere", "--out=x"], "nowhere does not exist"),
    (["import", "--from=videos", "--path=.", "--out=x", "--picture_size=big"], "--picture_size=big is not pixels"),
    (["import", "--from=videos", "--path=.", "--out=x", "--cameras=top"], "'top' is not NAME:KEY"),
    (["import", "--from=videos", "--path=.", "--out=x", "--state=x"], "videos takes no state: it takes embodiment, hz"),
    (["export", "--folder=x"], "data export needs --folder=FOLDER --out=FOLDER"),
    (["export", "--folder=x", "--out=y", "--to=z"], "flag --to=z: one of lerobot, libero is allowed"),
  ],
)
def test_a_mistake_is_one_line(argv, line, capsys):
  assert cli.main(["data", *argv]) == 2
  err = capsys.readouterr().err
  assert err.startswith("kairos: ") and line in err and err.count("\n") == 1
