"""Latency: that both ways are timed on what they say, and in turns."""

import dataclasses

import pytest

from kairos_jax.errors import KairosError
from kairos_jax.evaluation import latency
from kairos_jax.runtime import WorldModel
from tests import tiny


def test_both_ways_are_timed(tiny_saved):
  times = latency.measure(WorldModel(tiny_saved), tiny.frames(5), "push", rounds=2, steps=2)
  assert list(times) == ["action-only", "joint"]
  assert all(0 < one.median <= one.p95 and one.calls == 2 for one in times.values())


def test_a_model_that_cannot_act_is_refused(tiny_saved):
  video = dataclasses.replace(tiny_saved, model_config=dataclasses.replace(tiny_saved.model_config, action=None))
  with pytest.raises(KairosError, match="no action tower"):
    latency.measure(WorldModel(video), tiny.frames(5), "push", rounds=1)


def test_an_answer_after_a_longer_history_is_computed_by_the_same_program(tiny_saved):
  model = WorldModel(tiny_saved)
  times = latency.by_history(model, "push", rounds=2, lengths=(9, 60), steps=2)
  assert list(times) == [9, 60] and all(one.calls == 2 for one in times.values())
  assert model._extend._cache_size() == model._act._cache_size() == 1
