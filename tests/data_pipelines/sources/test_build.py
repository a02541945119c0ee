"""Importing into shards: interrupted anywhere, repeated, of sources that do not agree, and as a loader sees it."""

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import embodiments, shards
from data_pipelines.curriculum.buckets import Shapes
from data_pipelines.curriculum.schedule import Mixture
from data_pipelines.engines.pool import Pool
from data_pipelines.loader import make_loader
from data_pipelines.normalize import make_normalizers
from data_pipelines.source import ArrayRecordSource
from data_pipelines.sources import Recordings, cut
from data_pipelines.sources.build import build
from data_pipelines.sources.episode import Episode, LeftOut, Origin, Span
from kairos_jax.errors import KairosError
from tests.data_pipelines.sources.contract import pictures

ROOT = Path(__file__).parents[3]


class Reader:
  """Parts of three episodes of the embedded arm; part 2 is all damaged, one episode of part 1 is of another size."""

  def __init__(self, parts=5):
    self.origin = Origin("toy", "toy", "MIT", embodiments.get("slide_arm"))
    self.parts, self.read = list(range(parts)), []

  def episodes(self, part):
    self.read.append(part)
    for number in range(3 * part, 3 * part + 3):
      if part == 2:
        yield LeftOut("damaged", "on purpose", f"episode {number}")
        continue
      size = (8, 8) if number == 5 else (8, 12)
      labels = np.random.default_rng(number).normal(size=(5, 3)).astype(np.float32)
      frames = iter(pictures(number, 5, size))
      yield Episode(f"episode {number}", 10.0, {"front": frames}, [Span(0, 5, "touch")], labels, labels + 1)


def recordings(**kwargs):
  return Recordings(Reader(**kwargs), cut.Cut())


def digests(folder):
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in folder.rglob("*")
    if path.is_file()
  }


class Stop(Exception):
  pass


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_an_interrupted_import_goes_on_and_gives_the_same_bytes(tmp_path, stop):
  build(recordings(), tmp_path / "whole", "toy", {"a": 1})

  def interrupt(done, report):
    if done == stop:
      raise Stop

  with pytest.raises(Stop):
    build(recordings(), tmp_path / "parts", "toy", {"a": 1}, interrupt)
  assert not (tmp_path / "parts/dataset.json").exists()
  again = recordings()
  report = build(again, tmp_path / "parts", "toy", {"a": 1})
  assert again._reader.read == list(range(stop, 5))  # what was done is not read again
  assert digests(tmp_path / "parts") == digests(tmp_path / "whole")
  assert (report.episodes, report.clips) == (12, 11)
  assert report.left_out == {"damaged": 3, "differs from its source": 1}


_KILLED = """
import sys
from tests.data_pipelines.sources.test_build import recordings
from data_pipelines.sources.build import build
print("begun", flush=True)
build(recordings(parts=12), sys.argv[1], "toy", {}, lambda done, report: print(done, flush=True))
"""


def killed(folder, line, seconds):
  """An import that is killed some time after it has said `line`; whether it was, rather than being done before."""
  command = [sys.executable, "-c", _KILLED, folder]
  run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
  while (said := run.stdout.readline()) and said.strip() != line:
    pass
  time.sleep(seconds)
  run.send_signal(signal.SIGKILL)
  return run.wait() == -signal.SIGKILL


def test_a_killed_import_goes_on_and_gives_the_same_bytes(tmp_path):
  build(recordings(parts=12), tmp_path / "whole", "toy", {})
  assert killed(tmp_path / "killed", b"4", 0.003)
  assert not (tmp_path / "killed/dataset.json").exists()
  build(recordings(parts=12), tmp_path / "killed", "toy", {})
  assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


@pytest.mark.slow
def test_fifty_kills_at_random_moments_leave_the_bytes_of_one_run(tmp_path):
  build(recordings(parts=12), tmp_path / "whole", "toy", {})
  rng, kills = np.random.default_rng(0), 0
  while kills < 50:
    folder = tmp_path / f"killed{kills}"
    while kills < 50 and killed(folder, b"begun", rng.uniform(0, 0.3)):
      kills += 1
    build(recordings(parts=12), folder, "toy", {})
    assert digests(folder) == digests(tmp_path / "whole")


# In a process of its own, because a fork of one that has run JAX may hang.
_LAST_LEG = """
import os, signal, sys
from pathlib import Path
from data_pipelines import shards
from data_pipelines.sources.build import build
from kairos_jax import files
from tests.data_pipelines.sources.test_build import recordings

def until(lines, finalize=shards.finalize):
  left = iter(range(lines))
  def trace(frame, event, argument):
    if event == "line" and next(left, None) is None:
      os.kill(os.getpid(), signal.SIGKILL)
    return trace if frame.f_code.co_filename in (shards.__file__, files.__file__) else None
  def traced(*arguments):
    sys.settrace(trace)
    return finalize(*arguments)
  return traced

lines, died = 0, True
while died:
  folder = Path(sys.argv[1], str(lines))
  child = os.fork()
  if not child:
    shards.finalize = until(lines)
    build(recordings(), folder, "toy", {})
    os._exit(0)
  died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
  build(recordings(), folder, "toy", {})
  lines += int(sys.argv[2])
"""


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_every_step_of_the_last_leg_leaves_the_bytes_of_one_run(tmp_path, step):
  """A child is killed at the n-th line of `finalize` and what it calls, for every n (or some of them)."""
  build(recordings(), tmp_path / "whole", "toy", {})
  command = [sys.executable, "-W", "ignore", "-c", _LAST_LEG, str(tmp_path / "killed"), str(step)]
  subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
  found = list((tmp_path / "killed").iterdir())
  assert len(found) > 150 / step
  for folder in found:
    assert digests(folder) == digests(tmp_path / "whole"), folder.name


def test_several_processes_give_the_bytes_of_one(tmp_path):
  """Also where a part's own first clip is not of the shape of the dataset's first."""
  build(recordings(), tmp_path / "1", "toy", {})
  build(recordings(), tmp_path / "2", "toy", {}, reopen=recordings, engine=Pool(2))
  assert digests(tmp_path / "1") == digests(tmp_path / "2")
  build(odd(), tmp_path / "odd", "toy", {})
  build(odd(), tmp_path / "odd2", "toy", {}, reopen=odd, engine=Pool(3))
  assert digests(tmp_path / "odd") == digests(tmp_path / "odd2")
  assert shards.read_manifest(tmp_path / "odd")["recipe"]["read"]["left_out"] == {
    "damaged": 3,
    "differs from its source": 1,
  }


class Odd(Reader):
  """The other size comes first in its part."""

  def episodes(self, part):
    return reversed(list(super().episodes(part))) if part == 1 else super().episodes(part)


def odd():
  reader = Odd()
  reader.parts = [0, 4, 1, 2, 3]
  return Recordings(reader, cut.Cut())


def test_a_complete_import_is_not_repeated(tmp_path):
  first = build(recordings(), tmp_path, "toy", {"a": 1})
  again = recordings()
  assert build(again, tmp_path, "toy", {"a": 1}) == first and not again._reader.read


def test_the_manifest_says_how_it_was_made_and_what_is_missing(tmp_path):
  build(recordings(), tmp_path, "toy", {"path": "x"})
  manifest = shards.read_manifest(tmp_path)
  assert manifest["recipe"]["import"] == {"path": "x", "parts": 5}
  assert manifest["recipe"]["read"]["left_out"] == {"damaged": 3, "differs from its source": 1}
  assert [shard["records"] for shard in manifest["shards"]] == [3, 2, 3, 3]  # nothing of part 2
  assert manifest["sources"]["toy"]["cameras"] == {"front": [8, 12]}


def test_other_options_do_not_mix_with_an_unfinished_or_a_finished_import(tmp_path):
  with pytest.raises(Stop):
    build(recordings(), tmp_path, "toy", {"path": "x", "size": 3}, lambda done, report: (_ for _ in ()).throw(Stop))
  with pytest.raises(KairosError, match=r"holds an unfinished import that differs in size: repeat that one, or remove"):
    build(recordings(), tmp_path, "toy", {"path": "x", "size": 4})
  build(recordings(), tmp_path, "toy", {"path": "x", "size": 3})
  before = digests(tmp_path)
  with pytest.raises(KairosError, match="holds another dataset, 'toy': choose a new folder"):
    build(recordings(), tmp_path, "toy", {"path": "x", "size": 4})
  assert digests(tmp_path) == before


def test_nothing_could_be_read(tmp_path):
  with pytest.raises(KairosError, match="nothing of toy could be read: 0 episodes, 0 clips; left out: 3 damaged"):
    reader = Reader()
    reader.parts = [2]
    build(Recordings(reader, cut.Cut()), tmp_path, "toy", {})
  assert not (tmp_path / "dataset.json").exists()


def test_a_full_disk_is_an_error_and_not_a_hole(tmp_path, monkeypatch):
  def full(*args, **kwargs):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(shards, "write_shard", full)
  with pytest.raises(OSError, match="No space left"):
    build(recordings(), tmp_path, "toy", {})


def test_the_loader_reads_what_was_imported(tmp_path):
  build(recordings(), tmp_path, "toy", {})
  sources = {"toy": ArrayRecordSource(tmp_path)}
  loader = make_loader(
    sources,
    Mixture({"toy": 1.0}, {"toy": 1.0}),
    batch_size=4,
    shapes=Shapes({5: 5}),
    video_fps=10.0,
    seed=0,
    tokenize=lambda text: np.zeros(1),
    steps=2,
    crop="start",
    instruction_share=(1.0, 1.0),
    state_dim=3,
    action_dim=3,
    normalizers=make_normalizers(sources),
  )
  batch = next(loader)
  assert batch["video"].shape == (4, 5, 8, 12, 3) and batch["action_mask"].all() and batch["state_mask"].all()
