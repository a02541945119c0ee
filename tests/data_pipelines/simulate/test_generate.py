import hashlib
import json
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest

from data_pipelines import records
from data_pipelines.shards import read_manifest
from data_pipelines.simulate import generate as generate_module
from data_pipelines.simulate.cue_reach import CUE_FRAMES
from data_pipelines.simulate.generate import KINDS, build, generate
from data_pipelines.simulate.robot import Robot
from data_pipelines.source import ArrayRecordSource
from kairos_jax.errors import KairosError

PACKAGED = {"metaworld": "metaworld", "fetch": "gymnasium_robotics", "libero": "libero"}  # of extras


def digest(folder):
  return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_is_its_seed_and_number(kind):
  if kind in PACKAGED:
    pytest.importorskip(PACKAGED[kind])
  clips = [records.encode(clip) for clip in generate(kind, 4, seed=5, size=16)]
  again = [records.encode(clip) for clip in generate(kind, 4, seed=5, size=16)]
  other = [records.encode(clip) for clip in generate(kind, 4, seed=6, size=16)]
  assert clips == again
  assert len({*clips, *other}) == 8


def test_the_third_clip_does_not_depend_on_those_before():
  *_, third = generate("physics", 3, seed=1, size=16)
  list(generate("physics", 9, seed=2, size=16))
  *_, again = generate("physics", 3, seed=1, size=16)
  np.testing.assert_array_equal(third.cameras["front"], again.cameras["front"])


def test_robot_clips():
  clips = list(generate("robot", 24, seed=0, size=16))
  for clip in clips:
    assert 21 <= clip.frames <= 41
    assert clip.state_mask.all() and clip.action_mask.all()
    assert clip.state.shape[1] == clip.action.shape[1] == 3 and np.abs(clip.action).max() <= 1
    assert not any(color in clip.instruction for color in ("red", "blue"))
  waiting = [not clip.action[:CUE_FRAMES].any() for clip in clips]
  assert 6 <= sum(waiting) <= 18
  # The undisturbed expert moves by what it commands; a disturbed one does not, and its labels stay the expert's.
  moved = [np.abs(np.diff(clip.state, axis=0)[:3] - 0.03 * clip.action[:3]).max() for clip in clips]
  assert min(moved) < 0.02 < max(moved)
  # Where it is written what was executed, that is what moved it.
  for clip, label in zip(clips, moved, strict=True):
    if clip.executed is not None:
      by_executed = np.abs(np.diff(clip.state, axis=0)[:3] - 0.03 * clip.executed[:3]).max()
      assert by_executed <= label + 1e-6 and np.abs(clip.executed).max() <= 1
  assert {clip.executed is None for clip in clips} == {True, False}


def test_clips_of_rolling_balls_show_where_no_expert_goes_and_end_with_the_touch():
  clips = list(generate("moving_robot", 12, seed=0, size=16))
  pushed = [np.linalg.norm(clip.executed - clip.action, axis=1) for clip in clips]
  shoved = np.concatenate(pushed) > 1.5
  assert 0.03 < shoved.mean() < 0.5
  assert min(clip.frames for clip in clips) < 21 and max(clip.frames for clip in clips) <= 61


def test_a_robot_that_misjudges_goes_for_another_place_than_its_labels():
  right, wrong = [
    Robot(16, 0.0, disturbed_share=0.0, misjudges=by, speed=0.08).clip(np.random.default_rng(1)) for by in (0.0, 0.05)
  ]
  assert right.executed is None and wrong.executed is not None
  off = wrong.executed - wrong.action
  far = np.abs(wrong.action) == 1  # there the way is the same wherever the ball is taken to be
  assert 0.1 < np.abs(off[~far]).mean() < 1.0 and np.median(np.abs(off[far])) == 0


def test_most_mixed_demonstrations_are_of_something_else():
  clips = list(generate("mixed_robot", 60, seed=0, size=16))
  resting, going = [[clip for clip in clips if ("rests" in clip.caption) == rests] for rests in (True, False)]
  assert 28 <= len(resting) <= 50
  for clip in resting:
    assert clip.frames == 61 and np.median(clip.state[10:, 2]) > 0.25  # high up, but for shoves
  assert all(clip.state[-1, 2] < 0.2 for clip in going)


def test_hand_and_physics_clips_have_no_labels():
  for kind in ("hand", "physics"):
    for clip in generate(kind, 6, seed=0, size=16):
      video = clip.cameras["front"]
      assert video.shape == (33, 16, 16, 3)
      assert clip.state.size == clip.action.size == 0 and not clip.action_mask.any() and not clip.state_mask.any()
      assert len(clip.caption.split()) >= 6
      # Something is seen to happen.
      assert np.abs(video[0].astype(int) - video[16]).max() > 40, clip.caption


def test_build_gives_the_same_bytes_whatever_the_processes_and_keeps_what_is_complete(tmp_path):
  counts = {"physics": 3, "robot": 3}
  build(tmp_path / "one", counts, seed=0, size=16, processes=1)
  build(tmp_path / "two", counts, seed=0, size=16, processes=2)
  built = digest(tmp_path / "one")
  assert digest(tmp_path / "two") == built and len(built) == 5
  source = ArrayRecordSource(tmp_path / "one" / "robot")
  assert [source[i].clip.source for i in range(3)] == ["robot"] * 3

  shard = tmp_path / "one" / "robot" / "robot-00000-of-00001.array_record"
  before = shard.stat().st_mtime_ns
  build(tmp_path / "one", counts, seed=0, size=16, processes=1)
  assert shard.stat().st_mtime_ns == before
  build(tmp_path / "one", {"robot": 2}, seed=0, size=16, processes=1)
  assert json.loads((tmp_path / "one" / "robot" / "dataset.json").read_text())["records"] == 2


def test_many_writers_share_the_shards(tmp_path, monkeypatch):
  monkeypatch.setattr(generate_module, "_PER_SHARD", 2)
  heard = []
  build(tmp_path, {"physics": 5}, seed=0, size=16, processes=1, progress=lambda *what: heard.append(what))
  assert heard == [(count, "physics") for count in range(1, 6)]
  source = ArrayRecordSource(tmp_path / "physics")
  assert [shard["records"] for shard in read_manifest(tmp_path / "physics")["shards"]] == [2, 2, 1]
  for clip, index in zip(generate("physics", 5, seed=0, size=16), range(5), strict=True):
    assert records.encode(source[index].clip) == records.encode(clip)


def test_an_interrupted_build_goes_on_and_hears_of_every_clip(tmp_path, monkeypatch):
  monkeypatch.setattr(generate_module, "_PER_SHARD", 2)
  make, made, heard = generate_module._clip, [], []

  def interrupted(*what):
    if len(made) == 3:
      raise KeyboardInterrupt
    made.append(what)
    return make(*what)

  monkeypatch.setattr(generate_module, "_clip", interrupted)
  with pytest.raises(KeyboardInterrupt):
    build(tmp_path / "some", {"physics": 5}, seed=0, size=16, processes=1)
  assert not (tmp_path / "some" / "physics" / "dataset.json").exists()
  monkeypatch.setattr(generate_module, "_clip", make)
  build(tmp_path / "some", {"physics": 5}, seed=0, size=16, processes=2, progress=lambda *what: heard.append(what))
  assert heard == [(count, "physics") for count in (3, 4, 5)]
  build(tmp_path / "whole", {"physics": 5}, seed=0, size=16, processes=1)
  assert digest(tmp_path / "some") == digest(tmp_path / "whole")
  # Shards of another recipe are not taken for these.
  parts = tmp_path / "other" / "physics" / ".parts"
  shutil.copytree(tmp_path / "whole", tmp_path / "other")
  parts.mkdir()
  (parts / "recipe.json").write_text("{}")
  (parts / "00000.safetensors").write_bytes(b"")
  build(tmp_path / "other", {"physics": 3}, seed=0, size=16, processes=1)
  assert read_manifest(tmp_path / "other" / "physics")["records"] == 3 and not parts.exists()


def test_a_build_whose_process_is_killed_says_so_and_goes_on(tmp_path, monkeypatch):
  monkeypatch.setattr(generate_module, "_PER_SHARD", 2)

  def kill(*what):
    children = multiprocessing.active_children()
    os.kill(children[0].pid, signal.SIGKILL)

  with pytest.raises(KairosError, match="^a process that simulates died; the same line goes on"):
    build(tmp_path, {"physics": 9}, seed=0, size=16, processes=2, progress=kill)
  assert not multiprocessing.active_children()
  build(tmp_path, {"physics": 9}, seed=0, size=16, processes=2)
  assert read_manifest(tmp_path / "physics")["records"] == 9


def test_the_robot_s_labels_and_states_are_those_of_version_1():
  *_, clip = generate("robot", 2, seed=7, size=32)
  hashes = [hashlib.sha256(array.tobytes()).hexdigest()[:16] for array in (clip.state, clip.action)]
  assert hashes == ["abd18e69cae1867a", "34d3eefd078f7e0d"]


def test_user_errors(tmp_path):
  for counts, seed, words in (
    ({"moon": 1}, 0, "unknown kind of clip 'moon'"),
    ({"robot": 0}, 0, "at least 1"),
    ({"robot": 1}, -1, "negative"),
  ):
    with pytest.raises(KairosError, match=words):
      build(tmp_path, counts, seed, 16)
  assert not list(tmp_path.iterdir())
