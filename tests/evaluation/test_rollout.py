"""Streaming imagination: what comes, that it stays of one size, and the account of its cost."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from kairos_jax import seeds
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import rollout
from kairos_jax.evaluation.rollout import Cost
from kairos_jax.model.memory import require_constant_size
from kairos_jax.resident import resident_bytes
from kairos_jax.runtime import WorldModel
from tests import tiny


@pytest.fixture(scope="module")
def model(tiny_saved):
  return WorldModel(tiny_saved)


def imagine(model, frames=24, segment=8, seed=0, first=None):
  seen = tiny.frames(5) if first is None else first
  return np.concatenate(list(rollout.rollout(model, seen, "go on", frames, segment, seed)))


def test_segments_are_what_imagining_and_extending_by_hand_gives(model):
  got = list(rollout.rollout(model, tiny.frames(5), "go on", frames=17, segment=8, seed=3))
  assert [x.shape for x in got] == [(8, tiny.SIZE, tiny.SIZE, 3)] * 3 and got[0].dtype == np.uint8  # 17 rounded up
  stream = model.prefill(tiny.frames(5), "go on")
  for index, segment in enumerate(got):
    latents = model.imagine_latents(stream, 2, seed=seeds.derive(3, "rollout", index))
    pixels, stream = model.decode(stream, latents)
    np.testing.assert_array_equal(pixels[0], segment)
    stream = model.extend_latents(stream, latents)


def test_it_follows_from_what_was_seen_and_from_the_seed(model):
  np.testing.assert_array_equal(imagine(model), imagine(model))
  for other in (imagine(model, seed=1), imagine(model, first=tiny.frames(5, seed=1))):
    assert (other != imagine(model)).mean() > 0.1


def test_a_segment_depends_on_the_segments_before_it(model, monkeypatch):
  whole = imagine(model)
  monkeypatch.setattr(model, "extend_latents", lambda stream, latents: stream)
  forgot = imagine(model)
  np.testing.assert_array_equal(whole[:8], forgot[:8])
  assert (whole[8:] != forgot[8:]).mean() > 0.1


def test_the_stream_stays_of_one_size_and_nothing_is_compiled_again(model, monkeypatch):
  streams = []
  extend = model.extend_latents
  monkeypatch.setattr(model, "extend_latents", lambda *args: streams.append(extend(*args)) or streams[-1])
  segments = rollout.rollout(model, tiny.frames(5), "go on", frames=80, segment=8)
  next(segments)
  compiled = [f._cache_size() for f in (model._imagine, model._extend_latents, model._decode)]
  list(segments)
  assert [f._cache_size() for f in (model._imagine, model._extend_latents, model._decode)] == compiled
  shapes = {str(jax.tree.map(lambda x: (x.shape, x.dtype), s.memory)) for s in streams}
  assert len(streams) == 10 and len(shapes) == 1


def test_memory_is_flat(model):
  costs = [cost for _, cost in rollout.timed(rollout.rollout(model, tiny.frames(5), "go on", 1600, 8), fps=10)]
  assert len(costs) == 200
  assert rollout.summarize(costs).growth < 30e6


@pytest.mark.parametrize(
  "config, line",
  [
    (tiny.model_config(layers=("SWA", "FA")), "FA layers of this model keep all frames"),
    (tiny.model_config(video_frames=None), "actions read all frames"),
    (
      dataclasses.replace(
        tiny.model_config(), video=dataclasses.replace(tiny.model_config().video, all_see_history=True)
      ),
      "SWA layers of this model keep all frames",
    ),
  ],
)
def test_a_memory_that_grows_is_refused(tiny_saved, config, line):
  growing = WorldModel(dataclasses.replace(tiny_saved, model_config=config))
  with pytest.raises(KairosError, match=line):
    rollout.rollout(growing, tiny.frames(5), "go on", 8, 8)


def test_a_video_model_without_actions_streams():
  require_constant_size(dataclasses.replace(tiny.model_config(), action=None))


@pytest.mark.parametrize("frames, segment, line", [(0, 8, "0 frames"), (8, 6, "frames is 6"), (8, 0, "frames is 0")])
def test_bad_lengths(model, frames, segment, line):
  with pytest.raises(KairosError, match=line):
    rollout.rollout(model, tiny.frames(5), "go on", frames, segment)


def test_timed_counts_the_producer_and_not_the_consumer():
  now = [0.0]

  def produce():
    for seconds in (5.0, 1.0, 2.0):
      now[0] += seconds
      yield tiny.frames(4)

  costs = []
  memory = itertools.count(100)
  for pixels, cost in rollout.timed(produce(), fps=8.0, clock=lambda: now[0], memory=lambda: next(memory)):
    assert len(pixels) == 4
    costs.append(cost)
    now[0] += 100  # what is done with it
  assert costs == [Cost(1, 0.5, 5.0, 100), Cost(2, 1.0, 1.0, 101), Cost(3, 1.5, 2.0, 102)]


def test_summary():
  times = [60.0] + [1.0] * 3 + [7.0] * 6 + [2.0] * 3
  costs = [Cost(i + 1, i, seconds, 1000 * i) for i, seconds in enumerate(times)]
  summary = rollout.summarize(costs)
  assert (summary.first_quarter, summary.last_quarter, summary.ratio) == (1.0, 2.0, 2.0)
  assert summary.growth == 12_000 - 4000  # from the fifth segment on
  assert rollout.summarize(costs[:1]).ratio == 1 and rollout.summarize(costs[:1]).growth == 0


def test_resident_memory_is_that_of_this_process():
  before = resident_bytes()
  block = np.ones(64 * 2**20, np.uint8)
  assert 50e6 < resident_bytes() - before < 200e6
  del block
