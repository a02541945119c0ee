"""A whole curation: of good, bad and damaged videos, interrupted anywhere, and of robots."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import shards
from data_pipelines.curation import caption, contact_sheet, decide, ingest, operators, pack, score, stats
from data_pipelines.curation.caption import Ensemble
from data_pipelines.curation.captions import Rubric, TemplateCaptioner, agreeing
from data_pipelines.curation.decide import Rules
from data_pipelines.curation.operators import light
from data_pipelines.curation.workspace import Workspace
from data_pipelines.engines.ledger import Ledger
from data_pipelines.engines.pool import HERE, Pool
from data_pipelines.source import ArrayRecordSource
from data_pipelines.sources import Cut
from data_pipelines.sources.lerobot_writer import write_lerobot
from kairos_jax.errors import KairosError
from tests.data_pipelines.conftest import make_clip
from tests.data_pipelines.curation.conftest import scene
from tests.data_pipelines.sources.test_build import digests

ROOT = Path(__file__).parents[3]
ENSEMBLE = Ensemble((TemplateCaptioner(),), agreeing, Rubric())
CUT = Cut(size=(32, 48))


def begin(folder, raw):
  return Workspace.begin(folder, "videos", raw, CUT)


def curate(folder, raw, engine=HERE):
  workspace = begin(folder, raw)
  for _ in ingest.ingest(workspace):
    pass
  for _ in score.score(workspace, operators.DEFAULT, engine):
    pass
  decide.decide(workspace, Rules())
  for _ in caption.caption(workspace, ENSEMBLE):
    pass
  return workspace


@pytest.fixture(scope="module")
def done(tmp_path_factory, raw):
  """A curation that nothing has disturbed, and its shards."""
  folder = tmp_path_factory.mktemp("whole")
  workspace = curate(folder / "work", raw)
  pack.pack(workspace, folder / "out", "videos")
  return workspace, folder / "out"


def verdicts(workspace):
  """What is decided of each video's clips: kept, or which operators reject."""
  found = {}
  for entry in decide.read(workspace):
    refused = [verdict["operator"] for verdict in entry["decisions"] if not verdict["keep"]]
    found.setdefault(entry["clip"].split("#")[0], []).append(refused or "kept")
  return found


def test_what_is_kept_and_why_not_the_rest(done):
  workspace, folder = done
  found = verdicts(workspace)
  assert found["a_two.mp4"] == ["kept", "kept"]
  assert found["b_copy.mp4"] == [["duplicate"]]
  assert {"luminance", "blur", "motion"} <= set(found["d_black.mp4"][0])
  assert {"motion", "still"} <= set(found["e_still.mp4"][0])
  assert found["f_good.mp4"] == found["j_good.mp4"] == ["kept"]
  assert len(found) == 6
  rejected = stats.collect(workspace).videos
  assert rejected["segmented"] == 6 and rejected["no shot is long enough"] == 1 and sum(rejected.values()) == 10
  assert sum(count for reason, count in rejected.items() if "cannot be read" in reason) == 3
  source = ArrayRecordSource(folder)
  clips = [source[index].clip for index in range(len(source))]
  assert [clip.provenance["clip"] for clip in clips] == [
    "a_two.mp4#0-60",
    "a_two.mp4#60-130",
    "f_good.mp4#0-80",
    "j_good.mp4#0-60",
  ]
  assert "picks up a cup" in clips[0].caption and "moves" in clips[0].caption
  assert clips[0].provenance["taxonomy"] == "Robot/Picking"
  assert clips[2].cameras["front"].shape == (80, 32, 48, 3)


def test_a_decision_has_score_threshold_and_version(done):
  for entry in decide.read(done[0]):
    for verdict in entry["decisions"]:
      assert {"operator", "version", "score", "threshold", "keep"} <= verdict.keys()
  (copy,) = (entry for entry in decide.read(done[0]) if entry["clip"].startswith("b_copy"))
  assert copy["decisions"][-1]["copy_of"] == "a_two.mp4#60-130"


def test_the_copy_with_more_pixels_stays_whatever_its_place(tmp_path, raw):
  from tests.data_pipelines.sources.media import write_video

  write_video(tmp_path / "raw/a_small.mp4", scene(2, 6)[:, ::2, ::2], 10)
  write_video(tmp_path / "raw/b_large.mp4", scene(2, 6), 10)
  found = verdicts(curate(tmp_path / "work", tmp_path / "raw"))
  assert found == {"a_small.mp4": [["duplicate"]], "b_large.mp4": ["kept"]}


def test_other_bounds_are_decided_without_reading_a_video(done, tmp_path, monkeypatch):
  workspace = done[0]
  before = (workspace.folder / decide.DECISIONS).read_bytes()
  monkeypatch.setattr("data_pipelines.sources.video.frames", lambda *args, **kwargs: pytest.fail("a video is read"))
  counts = decide.decide(workspace, Rules(bounds={"seconds": (6.5, None)}, copies=None))
  assert counts["seconds"] >= 3 and "duplicate" not in counts
  decide.decide(workspace, Rules())
  assert (workspace.folder / decide.DECISIONS).read_bytes() == before


def test_several_processes_decide_and_pack_the_same(done, raw, tmp_path):
  workspace = curate(tmp_path / "work", raw, Pool(2))
  pack.pack(workspace, tmp_path / "out", "videos", engine=Pool(2))
  assert digests(tmp_path / "out") == digests(done[1])
  assert (workspace.folder / decide.DECISIONS).read_bytes() == (done[0].folder / decide.DECISIONS).read_bytes()


class Stop(Exception):
  pass


@pytest.mark.parametrize("after", [1, 2, 5])
def test_scoring_that_is_interrupted_measures_no_clip_twice(raw, tmp_path, monkeypatch, after):
  workspace = begin(tmp_path / "work", raw)
  list(ingest.ingest(workspace))
  measured = []
  original = score.Measures.score

  def counted(self, operator, view):
    if operator.name == "blur":
      if len(measured) == after:
        measured.append("stopped")
        raise Stop
      measured.append(view.clip.provenance["episode"])
    return original(self, operator, view)

  monkeypatch.setattr(score.Measures, "score", counted)
  with pytest.raises(Stop):
    list(score.score(workspace, operators.DEFAULT))
  list(score.score(workspace, operators.DEFAULT))
  assert len(measured) == 7 + 1  # every clip once, and the one at which it stopped
  list(score.score(workspace, operators.DEFAULT))
  assert len(measured) == 8


def test_a_new_version_measures_that_operator_alone(done, tmp_path, raw, monkeypatch):
  import dataclasses

  workspace = curate(tmp_path / "work", raw)
  newer = dataclasses.replace(operators.OPERATORS["blur"], version=9)
  monkeypatch.setattr(operators, "OPERATORS", {**operators.OPERATORS, "blur": newer})
  monkeypatch.setattr(light, "motion", lambda view: pytest.fail("motion is known"))
  list(score.score(workspace, operators.DEFAULT))
  decide.decide(workspace, Rules())
  versions = {v["operator"]: v["version"] for entry in decide.read(workspace) for v in entry["decisions"]}
  assert versions["blur"] == 9 and versions["motion"] == 1


def test_an_operator_that_fails_rejects_its_clip_with_the_reason(raw, tmp_path, monkeypatch):
  workspace = begin(tmp_path / "work", raw)
  list(ingest.ingest(workspace))

  def broken(self, operator, view):
    raise_it = operator.name == "blur" and view.clip.provenance["episode"] == "f_good.mp4"
    return {"version": 1, "error": "ValueError: odd"} if raise_it else {"version": 1, "score": 100.0}

  monkeypatch.setattr(score.Measures, "score", broken)
  list(score.score(workspace, ["blur"]))
  decide.decide(workspace, Rules(["blur"]))
  assert verdicts(workspace)["f_good.mp4"] == [["blur"]] and verdicts(workspace)["j_good.mp4"] == ["kept"]
  (entry,) = (entry for entry in decide.read(workspace) if entry["clip"].startswith("f_good"))
  assert entry["decisions"][0]["reason"] == "ValueError: odd"


@pytest.mark.parametrize("after", [0, 4, 9])
def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(done, raw, tmp_path, monkeypatch, after):
  workspace = begin(tmp_path / "work", raw)
  append, written = Ledger.append, []

  def full(self, entry):
    if len(written) >= after:
      raise OSError(28, "No space left on device")
    written.append(entry)
    append(self, entry)

  with monkeypatch.context() as patch:
    patch.setattr(Ledger, "append", full)
    with pytest.raises(OSError, match="No space left"):
      list(ingest.ingest(workspace))
  list(ingest.ingest(workspace))
  for part in range(10):
    assert workspace.shots(part) == done[0].shots(part)


_PACK = """
import sys
from data_pipelines.curation import pack
from data_pipelines.curation.workspace import Workspace
print("begun", flush=True)
pack.pack(Workspace.open(sys.argv[1]), sys.argv[2], "videos", on_part=lambda done, report: print(done, flush=True))
"""


def killed(work, out, line, seconds):
  """A pack that is killed some time after it has said `line`; whether it was, rather than being done before."""
  command = [sys.executable, "-c", _PACK, str(work), str(out)]
  run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
  while (said := run.stdout.readline()) and said.strip() != line:
    pass
  time.sleep(seconds)
  run.send_signal(signal.SIGKILL)
  return run.wait() == -signal.SIGKILL


def test_a_pack_that_is_killed_goes_on_and_gives_the_same_bytes(done, tmp_path):
  workspace, whole = done
  assert killed(workspace.folder, tmp_path / "out", b"2", 0.002)
  assert not (tmp_path / "out" / shards.MANIFEST).exists()
  pack.pack(workspace, tmp_path / "out", "videos")
  assert digests(tmp_path / "out") == digests(whole)


@pytest.mark.slow
def test_fifty_kills_while_packing_leave_the_bytes_of_one_run(done, tmp_path):
  workspace, whole = done
  rng, kills, folders = np.random.default_rng(0), 0, 0
  while kills < 50:
    folder = tmp_path / f"out{folders}"
    folders += 1
    while kills < 50 and killed(workspace.folder, folder, b"begun", rng.uniform(0, 1.5)):
      kills += 1
    pack.pack(workspace, folder, "videos")
    assert digests(folder) == digests(whole)


def test_a_bad_caption_is_left_out_and_counted(done, tmp_path):
  workspace = done[0]
  ledger = workspace.ledger("captions", 5)
  before = ledger.read_bytes()
  entry = {"clip": "f_good.mp4#0-80", "ensemble": "x", "caption": "no", "judged": {"score": 0.2, "reason": "short"}}
  try:
    with Ledger(ledger) as book:
      book.append(entry)
    report = pack.pack(workspace, tmp_path / "out", "videos")
    assert (report.clips, dict(report.left_out)) == (3, {"bad caption": 1})
  finally:
    ledger.write_bytes(before)


def test_captioning_again_asks_nobody_and_a_failed_clip_is_tried_again(done, raw, tmp_path):
  workspace = curate(tmp_path / "work", raw)

  class Broken:
    name, version, calls = "broken", 1, 0

    def caption(self, view):
      Broken.calls += 1
      raise KairosError("out of order")

  assert [count for _, _, count in caption.caption(workspace, ENSEMBLE)] == []
  broken = Ensemble((Broken(),), agreeing, Rubric())
  assert [count for _, _, count in caption.caption(workspace, broken)] == [0, 0, 0]
  assert caption.summary(workspace) == {"failed": 4} and Broken.calls == 4
  both = Ensemble((Broken(), TemplateCaptioner()), agreeing, Rubric())
  assert [count for _, _, count in caption.caption(workspace, both)] == [2, 1, 1]
  assert caption.summary(workspace) == {"captioned": 4}
  noted = caption.entries(workspace, 5)["f_good.mp4#0-80"]
  assert noted["errors"] == {"broken": "out of order"} and list(noted["said"]) == ["template"]


def test_the_contact_sheet_shows_what_is_asked_for_and_escapes_texts(done, tmp_path):
  workspace = done[0]
  assert contact_sheet.write(workspace, tmp_path / "a.html", contact_sheet.Chosen()) == 7
  page = (tmp_path / "a.html").read_text()
  assert "picks up a cup" in page and "a copy of a_two.mp4#60-130" in page and page.count("data:image/jpeg") == 7
  assert "<script>alert" not in page and "&lt;script&gt;alert" in page
  assert contact_sheet.write(workspace, tmp_path / "b.html", contact_sheet.Chosen("kept")) == 4
  assert contact_sheet.write(workspace, tmp_path / "b.html", contact_sheet.Chosen("rejected", clips=2)) == 2
  assert contact_sheet.write(workspace, tmp_path / "b.html", contact_sheet.Chosen("all", "Robot")) == 2
  assert contact_sheet.write(workspace, tmp_path / "b.html", contact_sheet.Chosen("all", "Rob")) == 0


def test_a_robot_dataset_is_curated_by_its_labels(tmp_path):
  def clip(number, labeled):
    mask = np.arange(39) < labeled
    action = np.random.default_rng(number).normal(size=(39, 3)).astype(np.float32) * mask[:, None]
    video = {"front": scene(20 + number, 4)}
    return make_clip(number, frames=40, cameras=video, action=action, action_mask=mask, caption="")

  shards.write_shards([clip(0, 39), clip(1, 0), clip(2, 39)], tmp_path / "made", "robot", 2)
  source = ArrayRecordSource(tmp_path / "made")
  write_lerobot((source[index].clip for index in (0, 2)), tmp_path / "lerobot")
  path = next((tmp_path / "lerobot").glob("data/*/*.parquet"))
  import pyarrow as pa
  import pyarrow.parquet as pq

  table = pq.read_table(path)
  place = table.column_names.index("action")
  actions = table.column("action").to_pylist()
  actions[2:35] = [[float("nan")] * 3] * 33
  pq.write_table(table.set_column(place, "action", pa.array(actions, table.schema.field("action").type)), path)

  workspace = Workspace.begin(tmp_path / "work", "lerobot", tmp_path / "lerobot", CUT, embodiment="slide_arm")
  assert list(ingest.ingest(workspace)) == []
  list(score.score(workspace, ["labeled", "blur"]))
  assert decide.decide(workspace, Rules(["labeled", "blur"])) == {"labeled": 1, "kept": 1}
  report = pack.pack(workspace, tmp_path / "out", "robot")
  assert report.clips == 1
  (record,) = ArrayRecordSource(tmp_path / "out")
  assert record.clip.action_mask.all() and np.isfinite(record.clip.action).all()
  contact_sheet.write(workspace, tmp_path / "a.html", contact_sheet.Chosen())
  assert (tmp_path / "a.html").read_text().count("<polyline") == 6


def test_a_folder_of_another_curation_and_an_empty_one_are_refused(done, raw, tmp_path):
  workspace = done[0]
  with pytest.raises(KairosError, match="differs in cut: choose a new folder"):
    Workspace.begin(workspace.folder, "videos", raw, Cut(size=(64, 96)))
  with pytest.raises(KairosError, match="no curation in"):
    Workspace.open(tmp_path)
  (tmp_path / "curation.json").write_text(json.dumps({"cut": 3}))
  with pytest.raises(KairosError, match="cannot read"):
    Workspace.open(tmp_path)
  fresh = begin(tmp_path / "fresh", raw)
  with pytest.raises(KairosError, match="keeps no clip"):
    pack.pack(fresh, tmp_path / "out", "videos")


class Halves:
  """A detector that cuts every video in the middle of its first ten seconds, whatever it shows."""

  name, version, size = "halves", 3, (9, 16)

  def __call__(self, frames):
    count = sum(frame.shape == (9, 16, 3) for frame in frames)
    return ([(51, 53, "half")] if count > 100 else []), count


def test_another_detector_cuts_again_and_what_it_does_not_cut_so_is_forgotten(raw, tmp_path):
  workspace = curate(tmp_path / "work", raw)
  before = {entry["clip"] for entry in decide.read(workspace)}
  assert len(list(ingest.ingest(workspace, detector=Halves()))) == 10
  assert list(ingest.ingest(workspace, detector=Halves())) == []
  list(score.score(workspace, operators.DEFAULT))
  decide.decide(workspace, Rules())
  after = {entry["clip"] for entry in decide.read(workspace)}
  assert before - after == {"a_two.mp4#0-60", "a_two.mp4#60-130"}
  assert after - before == {"a_two.mp4#0-51", "a_two.mp4#53-130"}


def test_a_video_of_too_many_frames_and_one_outside_the_folder_are_rejected(raw, tmp_path, monkeypatch):
  monkeypatch.setattr(ingest, "MAX_FRAMES", 70)
  lines = [{"video": name} for name in ("f_good.mp4", "j_good.mp4", "../elsewhere/j_good.mp4", "/etc/passwd")]
  folder = tmp_path / "raw"
  folder.mkdir()
  for name in ("f_good.mp4", "j_good.mp4"):
    (folder / name).write_bytes((raw / name).read_bytes())
  (folder / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  workspace = Workspace.begin(tmp_path / "work", "manifest", folder / "list.jsonl", CUT)
  noted = {entry["video"]: entry.get("rejected", "") for _, _, entry in ingest.ingest(workspace)}
  assert noted == {
    "f_good.mp4": "too many frames",
    "j_good.mp4": "",
    "../elsewhere/j_good.mp4": "path leaves its folder",
    "/etc/passwd": "path leaves its folder",
  }
