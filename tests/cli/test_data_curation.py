"""`kairos data ingest` to `inspect`, as typed; what they print, and how they say no."""

import http.client
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kairos_jax.cli import main as cli
from kairos_jax.cli.data_curation import parse_bounds
from kairos_jax.errors import KairosError
from tests.data_pipelines.curation.conftest import scene
from tests.data_pipelines.sources.media import write_video

ROOT = Path(__file__).parents[2]


@pytest.fixture
def raw(tmp_path):
  write_video(tmp_path / "raw/a.mp4", np.concatenate([scene(1, 6), scene(2, 7)]), 10)
  (tmp_path / "raw/a.txt").write_text("Hands cut an onion in a kitchen.")
  write_video(tmp_path / "raw/b.mp4", scene(2, 6.5)[3:, ::2, ::2], 10, crf="18")
  (tmp_path / "raw/c.mp4").write_bytes(b"nothing")
  return tmp_path / "raw"


def call(capsys, *words):
  code = cli.main(["data", *words])
  out, err = capsys.readouterr()
  return code, out, err


def test_all_stages_as_typed(raw, tmp_path, capsys):
  work, out = f"--work={tmp_path}/work", f"--out={tmp_path}/out"
  one = "--processes=1"
  code, said, _ = call(capsys, "ingest", f"--path={raw}", f"--out={tmp_path}/work", "--picture_size=32x48", one)
  assert code == 0 and "3 videos; now 3 shots, 1 videos rejected" in said
  code, said, _ = call(capsys, "ingest", f"--path={raw}", f"--out={tmp_path}/work", "--picture_size=32x48", one)
  assert code == 0 and "3 videos; now 0 shots" in said
  code, said, _ = call(capsys, "curate", work, one)
  assert code == 0 and "2 of 3 clips kept; rejected: 1 by duplicate" in said
  assert "not asked for: nsfw (The highest probability of nudity" in said
  code, said, _ = call(capsys, "caption", work, one)
  assert code == 0 and "2 captioned" in said
  code, said, _ = call(capsys, "pack", work, out, one)
  assert code == 0 and "1 episodes, 2 clips; left out: none" in said
  code, said, _ = call(capsys, "show", f"--folder={tmp_path}/out")
  assert code == 0 and "Hands cut an onion" in said
  code, said, _ = call(capsys, "stats", work)
  assert code == 0 and "duplicate" in said and "Human/Hands/Cooking" in said and "% of the width a second" in said
  code, said, _ = call(capsys, "inspect", work, "--show=kept")
  assert code == 0 and "2 clips" in said and (tmp_path / "work/contact_sheet.html").is_file()
  code, said, _ = call(capsys, "curate", work, one, "--bounds=seconds:6.5:", "--copies", "--operators=seconds,blur")
  assert code == 0 and "1 of 3 clips kept; rejected: 2 by seconds" in said


def test_inspect_serves_the_page_and_nothing_else(raw, tmp_path, capsys):
  call(capsys, "ingest", f"--path={raw}", f"--out={tmp_path}/work", "--processes=1", "--picture_size=32x48")
  call(capsys, "curate", f"--work={tmp_path}/work", "--processes=1")
  import socket

  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  command = "import sys; from kairos_jax.cli.main import main; sys.exit(main(sys.argv[1:]))"
  words = ["data", "inspect", f"--work={tmp_path}/work", f"--port={port}"]
  run = subprocess.Popen([sys.executable, "-c", command, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
  try:
    for _ in range(200):
      try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/../../../etc/passwd")
        page = connection.getresponse().read()
        break
      except OSError:
        time.sleep(0.2)
    assert page.startswith(b"<!doctype html>") and b"root:" not in page
  finally:
    run.kill()
    run.wait()


@pytest.mark.parametrize(
  ("words", "line"),
  [
    (["ingest"], "data ingest needs --path=PATH --out=FOLDER"),
    (["ingest", "--path=nowhere", "--out={}/w"], "nowhere does not exist"),
    (["curate"], "data curate needs --work=FOLDER"),
    (["stats", "--work={}"], "no curation in"),
    (["curate", "--work={}/work", "--operators=sharp"], "unknown operator 'sharp'"),
    (["curate", "--work={}/work", "--bounds=blur"], "'blur' is not NAME:LEAST:MOST"),
    (["curate", "--work={}/work", "--bounds=blurr:1:"], "unknown operator 'blurr'"),
    (["curate", "--work={}/work", "--taxonomy={}/no.txt"], "cannot read the taxonomy"),
    (["caption", "--work={}/work", "--captioners=me"], "'me' is none; template, openai and qwen are"),
    (["caption", "--work={}/work", "--captioners=openai"], "needs --server=http://HOST:PORT/v1 and --model=NAME"),
    (
      ["caption", "--work={}/work", "--captioners=openai", "--server=file:///etc", "--model=m"],
      "no address of the web",
    ),
    (["caption", "--work={}/work", "--captioners=qwen"], "needs --qwen=FOLDER"),
    (["caption", "--work={}/work", "--captioners=qwen", "--qwen=x"], "needs --processes=1"),
    (["pack", "--work={}/work"], "data pack needs --work=FOLDER --out=FOLDER"),
    (["pack", "--work={}/work", "--out={}/out"], "keeps no clip"),
    (["ingest", "--path={}/raw", "--out={}/work", "--video_fps=3"], "differs in cut"),
  ],
)
def test_mistakes_are_one_line(raw, tmp_path, capsys, words, line):
  recipe = {
    "from": "videos",
    "path": str(raw),
    "options": {},
    "cut": {"size": None, "video_fps": None, "max_seconds": 40.0},
  }
  (tmp_path / "work").mkdir()
  (tmp_path / "work/curation.json").write_text(json.dumps(recipe))
  code, _, err = call(capsys, *(word.format(tmp_path) for word in words))
  assert code == 2 and line in err and err.count("\n") == 1


def test_bounds():
  assert parse_bounds("blur:50:,motion:1:80.5,still::0.2") == {
    "blur": (50.0, None),
    "motion": (1.0, 80.5),
    "still": (None, 0.2),
  }
  with pytest.raises(KairosError, match="not NAME:LEAST:MOST"):
    parse_bounds("blur:1:2:3")
