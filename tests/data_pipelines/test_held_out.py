"""Held-out clips are in no epoch of training, and training's are not among them."""

import itertools

import pytest

from data_pipelines.curriculum.buckets import Shapes
from data_pipelines.curriculum.schedule import Mixture
from data_pipelines.held_out import hold_out
from data_pipelines.loader import make_loader
from data_pipelines.shards import read_manifest
from data_pipelines.source import ArrayRecordSource, Source
from kairos_jax.errors import KairosError
from tests.data_pipelines.conftest import identity, make_embodiment, open_sources


def ids_of(sources, batches, batch_size):
  mixture = Mixture({name: 1.0 for name in sources}, {name: 1.0 for name in sources})
  loader = make_loader(
    sources,
    mixture,
    batch_size=batch_size,
    shapes=Shapes({9: 4}),
    video_fps=10.0,
    seed=3,
    tokenize=lambda text: 0,
    steps=batches,
    crop="start",
    instruction_share=(1.0, 1.0),
    state_dim=3,
    action_dim=3,
    normalizers={"slide_arm": identity(make_embodiment())},
  )
  return [str(name) for batch in itertools.islice(loader, batches) for name in batch["id"]]


@pytest.mark.parametrize("clips", [1, 7, 19])
def test_the_last_clips_never_train(datasets, clips):
  sources = open_sources(datasets)
  names = [sources["robot"][i].id for i in range(20)]
  sources["robot"], held = hold_out(sources["robot"], clips)
  assert isinstance(held, Source) and [held[i].id for i in range(len(held))] == names[-clips:]
  trained = set(ids_of(sources, 40, 4))  # 80 of the robot's, four epochs or more
  assert {name for name in trained if name.startswith("robot")} == set(names[:-clips])
  assert sum(name.startswith("hand") for name in trained) == 12
  assert sorted(ids_of({"robot": held}, 1, clips)) == sorted(names[-clips:])
  assert held.statistics is sources["robot"].statistics
  for part in (sources["robot"], held):
    with pytest.raises(IndexError):
      part[len(part)]
    with pytest.raises(IndexError):
      part[-1]


def test_holes_keep_their_places_but_not_all_may_be_held_out(datasets):
  """A loader of holes alone would look for a clip for ever."""
  (datasets["robot"] / read_manifest(datasets["robot"])["shards"][-1]["file"]).unlink()
  source = ArrayRecordSource(datasets["robot"])
  _, held = hold_out(source, 6)
  assert [held[i] is None for i in range(6)] == [False, False, True, True, True, True]
  assert sorted(ids_of({"robot": held}, 1, 4)) == sorted([held[0].id, held[1].id] * 2)
  with pytest.raises(KairosError, match="none of the last 4 clips, which are held out, can be read"):
    hold_out(source, 4)


@pytest.mark.parametrize("clips", [0, 20, 21])
def test_something_must_be_left_to_train(datasets, clips):
  with pytest.raises(KairosError, match=f"{clips} of 20 clips cannot be held out: 1 to 19 can"):
    hold_out(ArrayRecordSource(datasets["robot"]), clips)
