"""The loader's rates: each takes its turns on the same episodes, and a peer that does not begin is told."""

import sys

import pytest

from data_pipelines.source import ArrayRecordSource
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import loading


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loading, "SIZE", 16)
    patch.setattr(loading, "EPISODES", 2)
    loading.write(tmp_path_factory.mktemp("loader"))
    return tmp_path_factory.getbasetemp() / "loader0"


def test_every_turn_counts_its_clips(folder, monkeypatch):
  monkeypatch.setattr(loading, "BATCHES", 2)
  rates = loading.measure(folder, None, rounds=3)
  assert list(rates) == ["records", "records, raw", "mp4, in order"] and all(
    len(every) == 3 for every in rates.values()
  )
  assert all(rate.wall > 0 and rate.processor > 0 for every in rates.values() for rate in every)
  assert loading.medians({"x": [loading.Rate(3.0, 1.0), loading.Rate(1.0, 2.0), loading.Rate(2.0, 9.0)]}) == {
    "x": loading.Rate(2.0, 2.0)
  }


def test_records_and_mp4_hold_the_same_episodes(folder):
  source = ArrayRecordSource(folder / "records")
  clips = loading._in_order(folder / "lerobot")
  for index in range(len(source)):
    video = source[index].clip.cameras["front"]
    for begin in (0, loading.FRAMES):
      difference = next(clips).astype(int) - video[begin : begin + loading.FRAMES]
      assert abs(difference).mean() < 12  # h264 at this size


def test_an_interpreter_without_lerobot_is_told(folder):
  with pytest.raises(KairosError, match="LeRobot's loader in .* does not begin with torchcodec"):
    loading.measure(folder, sys.executable, rounds=1)
