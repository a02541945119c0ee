"""A stage of several buckets as the loader streams it: little waste, the shares asked for, exact resumption."""

import itertools

import numpy as np
import pytest

from data_pipelines.curriculum.buckets import MAX_WASTE, Shapes
from data_pipelines.curriculum.schedule import Mixture
from data_pipelines.loader import make_loader
from data_pipelines.shards import write_shards
from kairos_jax.errors import KairosError
from tests.data_pipelines.conftest import make_clip, open_sources

LENGTHS = {1: 0, 5: 0, 9: 0, 17: 0}


def unlabeled(number, frames, size, source, **changes):
  rng = np.random.default_rng(number)
  video = rng.integers(1, 256, (frames, *size, 3), dtype=np.uint8)  # no black, which only borders have
  fields = dict(cameras={"front": video}, state_dim=0, action_dim=0, embodiment="none", source=source)
  return make_clip(number, frames, **{**fields, **changes})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Two sources of videos, of 3 to 40 frames, of two rates, one of two sizes; and one of images."""
  folder = tmp_path_factory.mktemp("sources")
  rng = np.random.default_rng(5)
  wide = (
    unlabeled(i, int(rng.integers(3, 40)), (18, 36) if i % 3 else (31, 20), f"wide/{i % 3 > 0}",
              provenance={"scores": {"motion": float(i % 5)}}, video_fps=10.0)
    for i in range(40)
  )  # fmt: skip
  square = (
    unlabeled(100 + i, int(rng.integers(2, 60)), (20, 20), "square", video_fps=15.0, caption=f"clip {i}")
    for i in range(30)
  )
  images = (unlabeled(200 + i, 1, (20, 20), "images") for i in range(9))
  for name, clips in (("wide", wide), ("square", square), ("images", images)):
    write_shards(clips, folder / name, name, 7)
  return {name: folder / name for name in ("wide", "square", "images")}


def stage(folders, start=None, end=None, shapes=None, **changes):
  start = start or {"wide": 0.7, "square": 0.3}
  options = dict(
    batch_size=3,
    shapes=shapes or Shapes(LENGTHS, "64P"),
    video_fps=10.0,
    seed=0,
    tokenize=lambda text: np.array([text == "do it"]),
    steps=120,
    crop="random",
    instruction_share=(0.0, 1.0),
    state_dim=1,
    action_dim=1,
    normalizers={},
  )
  return make_loader(open_sources(folders), Mixture(start, end or start), **{**options, **changes})


def take(iterator, count):
  return list(itertools.islice(iterator, count))


@pytest.fixture(scope="module")
def batches(folders):
  return take(stage(folders, {"wide": 1.0}, {"square": 1.0}, Shapes(LENGTHS, "64P", image_share=0.1)), 120)


def test_no_batch_wastes_more_than_a_tenth(batches):
  for batch in batches:
    _, frames, height, width, _ = batch["video"].shape
    shown = 0
    for video, length in zip(batch["video"], batch["length"], strict=True):
      filled = video[0].max(-1) > 0
      shown += int(length) * int(filled.any(1).sum()) * int(filled.any(0).sum())
    assert 1 - shown / (len(batch["video"]) * frames * height * width) <= MAX_WASTE


def test_batches_have_the_shapes_of_the_stage_and_no_other(batches):
  shapes = {batch["video"].shape[1:4] for batch in batches}
  sizes = {(64, 128), (96, 64), (64, 64)} & {shape[1:] for shape in shapes}
  assert {shape[0] for shape in shapes} == set(LENGTHS)
  assert {shape[1:] for shape in shapes} == sizes and len(sizes) >= 2


def test_the_mixture_and_the_share_of_images_are_met_as_they_move(batches):
  images = [len(batch["id"]) for batch in batches if batch["video"].shape[1] == 1]
  assert sum(images) / 360 == pytest.approx(0.1, abs=0.02)
  for third, part in enumerate(np.split(np.arange(120), 3)):
    square = np.concatenate([batches[i]["id"] for i in part])
    share = np.mean([name.startswith("square") for name in square])
    assert share == pytest.approx((third + 0.5) / 3, abs=0.07)


def test_captions_give_way_to_instructions_in_all_buckets(batches):
  for part, expected in ((batches[:60], 0.25), (batches[60:], 0.75)):
    assert np.mean(np.concatenate([batch["tokens"] for batch in part])) == pytest.approx(expected, abs=0.1)


def test_image_sources_have_the_images_share(folders):
  loader = stage(folders, {"wide": 1.0, "images": 5.0}, shapes=Shapes({5: 0, 9: 0}, "64P", image_share=0.25))
  for batch in take(loader, 40):
    assert (batch["video"].shape[1] == 1) == batch["id"][0].startswith("images")
  images = [batch["id"][0].startswith("images") for batch in take(loader, 80)]
  assert np.mean(images) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("stop", [1, 17])
def test_a_stage_stopped_anywhere_goes_on_exactly(folders, batches, stop):
  make = lambda: stage(folders, {"wide": 1.0}, {"square": 1.0}, Shapes(LENGTHS, "64P", image_share=0.1))  # noqa: E731
  stopped, resumed = make(), make()
  take(stopped, stop)
  take(resumed, 3)
  resumed.set_state(stopped.get_state())
  for batch, other in zip(batches[stop : stop + 12], take(resumed, 12), strict=True):
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name])


def test_hosts_see_one_bucket_at_a_time_and_share_its_samples(folders):
  alone = take(stage(folders, batch_size=4, steps=30), 30)
  hosts = [take(stage(folders, batch_size=2, steps=30, process_index=i, process_count=2), 30) for i in range(2)]
  for one, *parts in zip(alone, *hosts, strict=True):
    assert len({part["video"].shape for part in parts}) == 1
    np.testing.assert_array_equal(one["id"], np.concatenate([part["id"] for part in parts]))
    np.testing.assert_array_equal(one["video"], np.concatenate([part["video"] for part in parts]))


def test_filters_leave_out_what_is_too_long_or_scored_too_low(folders):
  sources = open_sources(folders)
  loader = stage(folders, filters={"seconds": (0.5, 1.7), "motion": (2.0, 3.0)})
  seen = {name for batch in take(loader, 100) for name in batch["id"]}
  expected = set()
  for name in ("wide", "square"):
    for i in range(len(sources[name])):
      record = sources[name][i]
      seconds = record.clip.frames / record.clip.video_fps
      motion = record.clip.provenance.get("scores", {}).get("motion", 2.0)
      if 0.5 <= seconds <= 1.7 and 2 <= motion <= 3:
        expected.add(record.id)
  assert seen == expected


@pytest.mark.mistakes
def test_stages_that_cannot_be(folders):
  for words, changes in {
    "filter 'beauty' is unknown": dict(filters={"beauty": (0.0, 1.0)}),
    "no clip of source 'square' passes": dict(filters={"seconds": (90.0, 99.0)}, start={"square": 1.0}),
    "image_share is 0.5 and frames are 1": dict(shapes=Shapes({1: 0}, "64P", image_share=0.5)),
    "mixture has images alone": dict(start={"images": 1.0}, shapes=Shapes({5: 0}, "64P", image_share=0.5)),
    "mixture's image sources have no weight at one": dict(
      start={"images": 1.0, "wide": 1.0}, end={"wide": 1.0}, shapes=Shapes({5: 0}, "64P", image_share=0.5)
    ),
  }.items():
    with pytest.raises(KairosError, match=words):
      stage(folders, **changes)
