import functools
import itertools

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines import embodiments, records
from data_pipelines.curriculum.buckets import Shapes
from data_pipelines.curriculum.schedule import Mixture
from data_pipelines.loader import make_loader
from data_pipelines.normalize import EmbodimentNormalizer, Normalizer
from data_pipelines.shards import read_manifest, write_shards
from data_pipelines.source import ReadReport
from kairos_jax.errors import KairosError
from tests.data_pipelines.conftest import identity, make_clip, make_embodiment, open_sources

EVEN = Mixture({"robot": 1, "hand": 1}, {"robot": 1, "hand": 1})


def tokenize(text):
  return np.frombuffer(text.ljust(8)[:8].encode(), np.uint8).astype(np.int32)


def text(tokens):
  return bytes(tokens.astype(np.uint8)).decode().strip()


def loader(datasets, mixture=EVEN, report=None, frames=5, action_steps=4, size=None, **changes):
  options = dict(
    batch_size=4,
    shapes=Shapes({frames: action_steps}, size),
    video_fps=10.0,
    seed=0,
    tokenize=tokenize,
    steps=20,
    crop="random",
    instruction_share=(0.0, 1.0),
    state_dim=3,
    action_dim=3,
    normalizers={"slide_arm": identity(make_embodiment())},
  )
  return make_loader(open_sources(datasets, report), mixture, **{**options, **changes})


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
    "state_mask": ("bool", (4, 5, 3)),
    "action": ("float32", (4, 4, 3)),
    "action_mask": ("bool", (4, 4, 3)),
    "executed": ("float32", (4, 4, 3)),
    "action_hz": ("float32", (4,)),
    "fps": ("float32", (4,)),
    "embodiment": ("int32", (4,)),
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
  for step, batch in enumerate(alone):
    for name, rows in batch.items():
      np.testing.assert_array_equal(np.concatenate([part[step][name] for part in parts]), rows)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2), (2, 1)])
def test_a_stream_of_other_processes_goes_on_with_the_same_samples(datasets, before, after):
  stopped = loader(datasets, batch_size=6 // before, steps=10, process_count=before)
  take(stopped, 4)
  resumed = loader(datasets, batch_size=6 // after, steps=10, process_index=after - 1, process_count=after)
  resumed.set_state(stopped.get_state())
  whole = take(loader(datasets, batch_size=6, steps=10), 8)[4:]
  for mine, batch in zip(take(resumed, 4), whole, strict=True):
    np.testing.assert_array_equal(mine["id"], batch["id"][-6 // after :])


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


def samples(batches):
  """One after the other, as hashable rows."""
  return [
    tuple(batch[name][i].tobytes() for name in sorted(batch)) for batch in batches for i in range(len(batch["id"]))
  ]


def lose(folder, *shards):
  """Unlinks shards and returns the beginnings of the ids of their records."""
  for shard in shards:
    path = folder / read_manifest(folder)["shards"][shard]["file"]
    path.unlink()
  return tuple(f"robot/robot-{shard:05d}-" for shard in shards)


def without(batches, lost):
  rows = samples(batches)
  ids = [name for batch in batches for name in batch["id"]]
  return [row for row, name in zip(rows, ids, strict=True) if not name.startswith(lost)]


def test_the_stream_with_a_lost_shard_is_the_whole_one_without_its_samples(datasets):
  whole = take(loader(datasets), 40)
  lost = lose(datasets["robot"], 1, 3)
  report = ReadReport()
  holed = samples(take(loader(datasets, report=report), 25))
  expected = without(whole, lost)
  assert 100 <= len(expected) < 140 and holed == expected[:100]
  assert report == ReadReport(shards_lost=2, holes=8)


@pytest.mark.parametrize("stop", [1, 7])
def test_a_shard_lost_before_a_resumption_does_not_change_what_follows(datasets, stop):
  whole = take(loader(datasets), 40)
  stopped = loader(datasets)
  take(stopped, stop)
  lost = lose(datasets["robot"], 2)
  resumed = loader(datasets)
  resumed.set_state(stopped.get_state())
  assert samples(take(resumed, 20)) == without(whole[stop:], lost)[:80]
  again = loader(datasets)
  take(again, 5)
  again.set_state(resumed.get_state())
  assert_same(take(resumed, 5), take(again, 5))


def test_four_of_five_shards_lost_do_not_go_unnoticed(datasets):
  lose(datasets["robot"], 0, 1, 2, 4)
  with pytest.raises(KairosError, match="16 of 20 records of dataset .* cannot be read"):
    loader(datasets)


@pytest.mark.parametrize(
  "foreign",
  [b"garbage", records.encode(make_clip(size=16)), records.encode(make_clip(action_dim=4))],
  ids=["garbage", "another size", "another width"],
)
def test_one_foreign_record_is_passed_over_and_training_goes_on(tmp_path, foreign):
  write_shards((make_clip(i) for i in range(6)), tmp_path, "robot", 6)
  path = tmp_path / "robot-00000-of-00001.array_record"
  only = Mixture({"robot": 1}, {"robot": 1})
  whole = take(loader({"robot": tmp_path}, only, steps=10), 20)
  writer = ArrayRecordWriter(str(path), "group_size:1")
  for i in range(6):
    writer.write(foreign if i == 4 else records.encode(make_clip(i)))
  writer.close()
  report = ReadReport()
  batches = take(loader({"robot": tmp_path}, only, steps=10, report=report), 12)
  assert {name.rpartition("#")[2] for batch in batches for name in batch["id"]} == set("01235")
  expected = [row for batch in whole for row in samples([batch])]
  kept = [not name.endswith("#4") for batch in whole for name in batch["id"]]
  assert samples(batches) == [row for row, keep in zip(expected, kept, strict=True) if keep][:48]
  assert report == ReadReport(holes=1)


@pytest.mark.parametrize(
  ("crop", "expected"), [("start", {0}), ("random", {0, 1, 2, 3, 4}), ("anywhere", set(range(8)))]
)
def test_crops_start_where_they_should(tmp_path, crop, expected):
  write_shards((make_clip(10 * i) for i in range(4)), tmp_path, "robot", 4)
  batches = take(loader({"robot": tmp_path}, Mixture({"robot": 1}, {"robot": 1}), crop=crop), 40)
  assert {int(first) % 10 for batch in batches for first in batch["state"][:, 0, 0]} == expected


def rendered(name, embodiment, folder, **changes):
  write_shards((make_clip(i, source=name, embodiment=embodiment, **changes) for i in range(8)), folder, name, 4)
  return folder


@pytest.fixture
def robots(tmp_path):
  """Two robots with cameras, rates and widths of their own, and a hand; their normalizers beside them."""
  rng = np.random.default_rng(0)

  def cameras(**sizes):
    return {name: rng.integers(0, 256, (16, *size, 3), dtype=np.uint8) for name, size in sizes.items()}

  def labels(rows, state_dim, action_dim, offset):
    state, action = rng.normal(offset, 3.7, (rows, state_dim)), rng.normal(-offset, 0.3, (rows, action_dim))
    masks = dict(state_mask=np.ones(rows, bool), action_mask=np.ones(rows, bool))
    return dict(state=state.astype(np.float32), action=action.astype(np.float32), **masks)

  one = rendered(
    "one", "one", tmp_path / "one", cameras=cameras(a=(13, 7), b=(5, 9)), video_fps=15.0, **labels(25, 2, 5, 3.1)
  )
  two = rendered(
    "two",
    "two",
    tmp_path / "two",
    cameras=cameras(c=(9, 11)),
    video_fps=7.5,
    action_hz=50 / 3,
    **labels(40, 6, 3, -7.3),
  )
  hand = rendered("hand", "hand", tmp_path / "hand", state_dim=0, action_dim=0)
  bodies = (
    make_embodiment(
      "one", 2, 5, cameras=("b", "a"), layout="side_by_side", picture_size=(10, 14), normalization="z_score"
    ),
    make_embodiment("two", 6, 3, cameras=("c",), picture_size=(6, 8), normalization="min_max"),
  )
  folders = {"one": one, "two": two, "hand": hand}
  sources = open_sources(folders)
  normalizers = {
    body.name: EmbodimentNormalizer.from_statistics(body, sources[body.name].statistics[body.name]) for body in bodies
  }
  mixture = Mixture(dict.fromkeys(folders, 1), dict.fromkeys(folders, 1))
  wide = dict(state_dim=7, action_dim=6, action_steps=8, size=(12, 18), frames=6)
  return folders, functools.partial(loader, folders, mixture, normalizers=normalizers, **wide), normalizers


def test_a_batch_mixes_robots_each_in_its_own_numbers(robots):
  folders, make, normalizers = robots
  clips = {name: source[0].clip for name, source in open_sources(folders).items()}
  names, seen = sorted(folders), set()
  for batch in take(make(crop="start"), 6):
    assert batch["video"].shape == (4, 6, 12, 18, 3)
    for i in range(4):
      name = names[batch["source"][i]]
      clip = clips[name]
      seen.add(name)
      assert batch["fps"][i] == 10 and batch["action_hz"][i] == np.float32(clip.action_hz)
      if name == "hand":
        assert batch["embodiment"][i] == -1 and not batch["action_mask"][i].any() and not batch["state_mask"][i].any()
        continue
      normalizer = normalizers[name]
      assert batch["embodiment"][i] == sorted(normalizers).index(name)
      frames = np.floor(np.arange(6) / 10 * clip.video_fps + 1e-9).astype(int)
      picture = embodiments.compose(normalizer.embodiment, clip.cameras, (12, 18))[frames]
      np.testing.assert_array_equal(batch["video"][i], picture)
      for feature, values in (
        ("state", clip.state[np.floor(np.arange(6) / 10 * clip.action_hz + 1e-9).astype(int)]),
        ("action", clip.action[:8]),
      ):
        dim = values.shape[1]
        np.testing.assert_array_equal(
          batch[f"{feature}_mask"][i], np.arange(batch[feature].shape[-1]) < dim + 0 * values[:, :1]
        )
        np.testing.assert_allclose(
          batch[feature][i, :, :dim], getattr(normalizer, feature).normalize(values), rtol=1e-5
        )
        assert not batch[feature][i, :, dim:].any()
  assert seen == set(folders)


def test_mixed_robots_are_resumed_and_shared_exactly(robots):
  _, make, _ = robots
  alone = take(make(batch_size=6, steps=10), 10)
  parts = [take(make(batch_size=2, steps=10, process_index=i, process_count=3), 10) for i in range(3)]
  for step, batch in enumerate(alone):
    for name, rows in batch.items():
      np.testing.assert_array_equal(np.concatenate([part[step][name] for part in parts]), rows)
  stopped, resumed = make(), make()
  take(stopped, 5)
  take(resumed, 2)
  resumed.set_state(stopped.get_state())
  assert_same(take(stopped, 6), take(resumed, 6))


def test_paraphrases_stand_in_for_the_instruction(tmp_path):
  clips = (make_clip(i, paraphrases=("go on", "please")) for i in range(8))
  write_shards(clips, tmp_path, "robot", 4)
  only = Mixture({"robot": 1}, {"robot": 1})
  batches = take(loader({"robot": tmp_path}, only, steps=60, instruction_share=(1.0, 1.0)), 60)
  told = [text(tokens) for batch in batches for tokens in batch["tokens"]]
  for wording in ("do it", "go on", "please"):
    assert told.count(wording) / len(told) == pytest.approx(1 / 3, abs=0.09)


def test_tokens_may_be_a_tree(datasets):
  tree = {"ids": np.zeros(3, np.int32), "more": (np.ones((2, 2), bool),)}
  batch = next(loader(datasets, tokenize=lambda text: tree))
  assert batch["tokens"]["ids"].shape == (4, 3) and batch["tokens"]["more"][0].shape == (4, 2, 2)


def test_streams_of_near_seeds_share_nothing(datasets):
  only = Mixture({"robot": 1}, {"robot": 1})
  orders = [
    [name for batch in take(loader(datasets, only, seed=seed, crop="random"), 5) for name in batch["id"]]
    for seed in range(4)
  ]
  assert len({tuple(order) for order in orders}) == 4


def test_per_step_normalizers_take_one_chunk_a_sample(datasets):
  body = make_embodiment(scope="per_step")
  center = np.arange(12, dtype=np.float32).reshape(4, 3)
  state = Normalizer("none", np.zeros(3, np.float32), np.ones(3, np.float32))
  normalizers = {"slide_arm": EmbodimentNormalizer(body, state, Normalizer("min_max", center, np.ones_like(center)))}
  batch = next(loader(datasets, Mixture({"robot": 1}, {"robot": 1}), normalizers=normalizers))
  np.testing.assert_array_equal(batch["action"] + center, np.round(batch["action"] + center))
  np.testing.assert_array_equal((batch["action"] + center)[..., 0], batch["state"][:, :4, 0])
  with pytest.raises(KairosError, match="action_steps is 5: .*chunks of 4"):
    loader(datasets, normalizers=normalizers, action_steps=5)


@pytest.mark.mistakes
def test_what_cannot_be_loaded(datasets, tmp_path):
  write_shards([make_clip(size=16)], tmp_path / "large", "large", 1)
  write_shards([make_clip(state_dim=2)], tmp_path / "odd", "odd", 1)
  other = {"wrist": np.zeros((9, 8, 8, 3), np.uint8)}
  write_shards([make_clip(cameras=other, embodiment="hand")], tmp_path / "blind", "blind", 1)
  write_shards([make_clip(embodiment="tank")], tmp_path / "tank", "tank", 1)
  for words, build in {
    "unknown sources": functools.partial(loader, datasets, Mixture({"moon": 1}, {"moon": 1})),
    "process_index 2": functools.partial(loader, datasets, process_index=2, process_count=2),
    "must be at least 1": functools.partial(loader, datasets, steps=0),
    "frames and action_steps": functools.partial(loader, datasets, frames=0),
    "video_fps is nan": functools.partial(loader, datasets, video_fps=float("nan")),
    "unknown crop": functools.partial(loader, datasets, crop="middle"),
    "pictures differ in size": functools.partial(loader, {**datasets, "hand": tmp_path / "large"}),
    "has no normalizer: there are none": functools.partial(loader, datasets, normalizers={}),
    "action_dim is 2: source 'robot' has 3": functools.partial(loader, datasets, action_dim=2),
    "has 2 state dimensions, embodiment 'slide_arm' 3": functools.partial(
      loader, {**datasets, "hand": tmp_path / "odd"}
    ),
    "needs camera 'front'": functools.partial(loader, {**datasets, "hand": tmp_path / "blind"}),
    "unknown embodiment 'tank'": functools.partial(loader, {**datasets, "hand": tmp_path / "tank"}),
    "seed is -1": functools.partial(loader, datasets, seed=-1),
  }.items():
    with pytest.raises(KairosError, match=words):
      build()
