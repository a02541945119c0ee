import functools
import itertools

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines import records
from data_pipelines.curriculum import Mixture
from data_pipelines.loader import make_loader, window
from data_pipelines.reader import ReadReport
from data_pipelines.shards import read_manifest, write_shards
from kairos_jax.errors import KairosError
from tests.data_pipelines.conftest import make_clip

EVEN = Mixture({"robot": 1, "hand": 1}, {"robot": 1, "hand": 1})


def tokenize(text):
  return np.frombuffer(text.ljust(8)[:8].encode(), np.uint8).astype(np.int32)


def text(tokens):
  return bytes(tokens.astype(np.uint8)).decode().strip()


def loader(datasets, mixture=EVEN, **changes):
  options = dict(
    batch_size=4, frames=5, seed=0, tokenize=tokenize, steps=20, crop="random", instruction_share=(0.0, 1.0)
  )
  return make_loader(datasets, mixture, **{**options, **dict(state_dim=3, action_dim=3), **changes})


def take(iterator, count):
  return list(itertools.islice(iterator, count))


def assert_same(batches, others):
  assert len(batches) == len(others)
  for batch, other in zip(batches, others, strict=True):
    assert batch.keys() == other.keys()
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name])


def test_batches_have_the_promised_shapes(datasets):
  batch = next(loader(datasets))
  shapes = {name: (value.dtype.name, value.shape) for name, value in batch.items() if name != "id"}
  assert shapes == {
    "video": ("uint8", (4, 5, 8, 8, 3)),
    "length": ("int32", (4,)),
    "tokens": ("int32", (4, 8)),
    "state": ("float32", (4, 5, 3)),
    "state_mask": ("bool", (4, 5)),
    "action": ("float32", (4, 4, 3)),
    "action_mask": ("bool", (4, 4)),
    "fps": ("float32", (4,)),
    "source": ("int32", (4,)),
  }
  assert batch["id"].dtype.kind == "U" and batch["id"].shape == (4,)


def test_labels_stay_with_their_frames_and_sources_without_labels_are_masked(datasets):
  for batch in take(loader(datasets), 10):
    for i, source in enumerate(batch["source"]):
      assert batch["id"][i].startswith(("hand/", "robot/")[source])
      if source == 0:
        assert not batch["state_mask"][i].any() and not batch["action_mask"][i].any()
        assert not batch["state"][i].any() and not batch["action"][i].any()
      else:
        # In these clips a frame's pixels, its state and the action that leaves it are one number.
        assert batch["state_mask"][i].all() and batch["action_mask"][i].all()
        np.testing.assert_array_equal(batch["state"][i, :, 0], batch["video"][i, :, 0, 0, 0])
        np.testing.assert_array_equal(batch["action"][i, :, 0], batch["video"][i, :-1, 0, 0, 0])


def test_the_seed_decides_everything(datasets):
  assert_same(take(loader(datasets), 10), take(loader(datasets), 10))
  assert any(
    (a["id"] != b["id"]).any() for a, b in zip(loader(datasets), take(loader(datasets, seed=1), 10), strict=False)
  )


@pytest.mark.parametrize("stop", [0, 1, 7, 20])
def test_a_restored_stream_goes_on_as_if_undisturbed(datasets, stop):
  undisturbed = take(loader(datasets), 25)
  stopped = loader(datasets)
  take(stopped, stop)
  resumed = loader(datasets)
  take(resumed, 3)
  resumed.set_state(stopped.get_state())
  assert_same(undisturbed[stop:], take(resumed, 25 - stop))


def test_orbax_saves_and_restores_the_stream(datasets, tmp_path):
  stream = loader(datasets)
  take(stream, 6)
  with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
    manager.save(6, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(stream)))
    manager.wait_until_finished()
    resumed = loader(datasets)
    manager.restore(6, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(resumed)))
  assert_same(take(stream, 5), take(resumed, 5))


def test_processes_share_the_samples_of_one(datasets):
  alone = take(loader(datasets, batch_size=6, steps=10), 10)
  parts = [take(loader(datasets, batch_size=2, steps=10, process_index=i, process_count=3), 10) for i in range(3)]
  for name in alone[0]:
    together = np.stack([np.concatenate([batch[name] for batch in part]) for part in parts], axis=1)
    np.testing.assert_array_equal(
      together.reshape(-1, *together.shape[2:]), np.concatenate([batch[name] for batch in alone])
    )


def test_the_mixture_moves_over_the_stage(datasets):
  mixture = Mixture({"robot": 1}, {"robot": 0.2, "hand": 0.8})
  sources = np.concatenate([batch["source"] for batch in take(loader(datasets, mixture, steps=80), 80)])
  for quarter, part in enumerate(np.split(sources, 4)):
    assert np.mean(part == 0) == pytest.approx(0.8 * (quarter + 0.5) / 4, abs=0.03)


def test_every_epoch_reads_each_record_once_in_a_new_order(datasets):
  mixture = Mixture({"robot": 1}, {"robot": 1})
  ids = np.concatenate([batch["id"] for batch in take(loader(datasets, mixture, steps=10), 10)])
  first, second = ids[:20], ids[20:]
  assert set(first) == set(second) and len(set(first)) == 20
  assert (first != second).any()


def test_captions_give_way_to_instructions(datasets):
  mixture = Mixture({"robot": 1}, {"robot": 1})
  batches = take(loader(datasets, mixture, steps=100, instruction_share=(0.0, 0.5)), 100)
  instructed = np.array([text(tokens) == "do it" for batch in batches for tokens in batch["tokens"]])
  first, last = np.split(instructed, 2)
  assert first.mean() == pytest.approx(0.125, abs=0.06) and last.mean() == pytest.approx(0.375, abs=0.08)
  hands = take(loader(datasets, Mixture({"hand": 1}, {"hand": 1}), instruction_share=(1.0, 1.0)), 3)
  assert all(text(tokens).startswith("clip 1") for batch in hands for tokens in batch["tokens"])


def test_damage_is_passed_over_and_counted(datasets):
  folder = datasets["robot"]
  (folder / read_manifest(folder)["shards"][0]["file"]).unlink()
  (folder / read_manifest(folder)["shards"][1]["file"]).write_bytes(b"")
  report = ReadReport()
  batches = take(loader(datasets, report=report), 30)
  assert len(batches) == 30 and report == ReadReport(shards_skipped=2)


@pytest.mark.parametrize(
  ("crop", "expected"), [("start", {0}), ("random", {0, 1, 2, 3, 4}), ("anywhere", set(range(8)))]
)
def test_crops_start_where_they_should(tmp_path, crop, expected):
  write_shards((make_clip(10 * i) for i in range(4)), tmp_path, "robot", 4)
  batches = take(loader({"robot": tmp_path}, Mixture({"robot": 1}, {"robot": 1}), crop=crop), 40)
  assert {int(first) % 10 for batch in batches for first in batch["state"][:, 0, 0]} == expected


def test_a_broken_record_is_passed_over_and_the_stage_goes_on(tmp_path):
  write_shards((make_clip(i) for i in range(6)), tmp_path, "robot", 6)
  path = tmp_path / "robot-00000-of-00001.array_record"
  writer = ArrayRecordWriter(str(path), "group_size:1")
  for i in range(6):
    writer.write(b"garbage" if i == 4 else records.encode(make_clip(i)))
  writer.close()
  report = ReadReport()
  batches = take(loader({"robot": tmp_path}, Mixture({"robot": 1}, {"robot": 1}), steps=10, report=report), 12)
  assert {name.rpartition("#")[2] for batch in batches for name in batch["id"]} == set("01235")
  assert len(batches) == 12 and report == ReadReport(records_dropped=1)


def test_what_cannot_be_loaded(datasets, tmp_path):
  write_shards([make_clip(size=16)], tmp_path / "large", "large", 1)
  for words, build in {
    "unknown sources": functools.partial(loader, datasets, Mixture({"moon": 1}, {"moon": 1})),
    "process_index 2": functools.partial(loader, datasets, process_index=2, process_count=2),
    "must be at least 1": functools.partial(loader, datasets, frames=0),
    "unknown crop": functools.partial(loader, datasets, crop="middle"),
    "frame sizes differ": functools.partial(loader, {**datasets, "hand": tmp_path / "large"}),
  }.items():
    with pytest.raises(KairosError, match=words):
      build()


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_a_window_is_the_clip_then_its_last_frame(clip_frames, frames, data):
  start = data.draw(st.integers(0, max(clip_frames - frames, 0)))
  clip = make_clip(50, frames=clip_frames)
  sample = window(clip, start, frames, 3, 3)
  valid = min(frames, clip_frames - start)
  assert sample["length"] == valid
  np.testing.assert_array_equal(sample["video"][:valid], clip.video[start : start + valid])
  assert (sample["video"][valid:] == clip.video[-1]).all()
  np.testing.assert_array_equal(sample["state_mask"], np.arange(frames) < valid)
  np.testing.assert_array_equal(sample["action_mask"], np.arange(frames - 1) < valid - 1)
  np.testing.assert_array_equal(sample["state"][:valid], clip.state[start : start + valid])
  assert not sample["state"][valid:].any() and not sample["action"][max(valid - 1, 0) :].any()


@pytest.mark.parametrize("dim", [0, 2, 4])
def test_other_dimensions_are_masked(dim):
  sample = window(make_clip(), 0, 5, dim, dim)
  assert sample["state"].shape == (5, dim) and sample["action"].shape == (4, dim)
  assert not sample["state_mask"].any() and not sample["action_mask"].any()
