import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.curriculum.schedule import Mixture, Schedule, linear
from kairos_jax.errors import KairosError


def curriculum_of(mixture, samples, seed):
  return Schedule(*mixture.shares(), samples, seed)


shares = st.lists(st.integers(0, 10), min_size=3, max_size=3).filter(any)


@settings(deadline=None)
@given(shares, shares, st.integers(1, 400), st.integers(0, 5))
def test_every_prefix_has_the_scheduled_mixture(start, end, samples, seed):
  mixture = Mixture(dict(zip("abc", start, strict=True)), dict(zip("abc", end, strict=True)))
  curriculum = curriculum_of(mixture, samples, seed)
  sources = np.array([curriculum[i][0] for i in range(samples)])
  drawn = np.cumsum(sources[:, None] == np.arange(len(mixture.names)), axis=0)
  first, last = mixture.shares()
  time = np.arange(1, samples + 1)[:, None]
  due = first * time + (last - first) * time**2 / (2 * samples)
  assert np.abs(drawn - due).max() <= 3


@given(st.integers(1, 50), st.integers(0, 5))
def test_every_source_is_read_in_its_own_order_without_gaps_even_beyond_the_stage(samples, seed):
  curriculum = curriculum_of(Mixture({"a": 1}, {"a": 1, "b": 2}), samples, seed)
  draws = [curriculum[i] for i in range(3 * samples + 7)]
  for source in (0, 1):
    positions = [position for drawn, position in draws if drawn == source]
    assert positions == list(range(len(positions)))


def test_after_the_stage_the_end_mixture_goes_on():
  curriculum = curriculum_of(Mixture({"a": 1}, {"a": 1, "b": 3}), 1000, 0)
  after = [curriculum[i][0] for i in range(1000, 3000)]
  assert np.mean(after) == pytest.approx(0.75, abs=0.01)


def test_striding_favors_no_source():
  curriculum = curriculum_of(Mixture({"a": 1, "b": 1}, {"a": 1, "b": 1}), 1000, 0)
  assert np.mean([curriculum[i][0] for i in range(0, 1000, 2)]) == pytest.approx(0.5, abs=0.08)


def test_linear_stays_at_its_end():
  assert [linear((0.0, 1.0), i / 10) for i in (0, 5, 10, 99)] == [0.0, 0.5, 1.0, 1.0]


@given(shares, shares, st.integers(1, 3000), st.integers(0, 5), st.data())
def test_any_draw_is_computed_alone(start, end, samples, seed, data):
  weights = (np.array(start) / 37, np.array(end) / 11)  # that do not sum to 1
  whole = Schedule(*weights, samples, seed)
  wanted = data.draw(st.lists(st.integers(0, 2 * samples), min_size=1, max_size=5))
  in_order = {i: whole[i] for i in range(max(wanted) + 1)}
  for i in wanted:
    assert Schedule(*weights, samples, seed)[i] == in_order[i]


def test_a_stage_of_a_billion_samples_is_not_held():
  samples = 10**9
  schedule = Schedule(np.array([0.9, 0.1]), np.array([0.1, 0.9]), samples, 7)
  tracemalloc.start()
  at = {part: [schedule[int(part * samples) + i][0] for i in range(200)] for part in (0.0, 0.5, 0.99999)}
  assert tracemalloc.get_traced_memory()[1] < 2**20
  tracemalloc.stop()
  for part, streams in at.items():
    assert np.mean(streams) == pytest.approx(0.1 + 0.8 * part, abs=0.02)


def test_a_stream_whose_share_ends_goes_on_for_the_draws_that_are_left():
  schedule = Schedule(np.array([0.3]), np.array([0.0]), 40, 0)
  assert [schedule[i] for i in range(30)] == [(0, i) for i in range(30)]


@pytest.mark.parametrize("weights", [{}, {"a": 0}, {"a": 1, "b": -1}])
def test_what_is_no_mixture(weights):
  with pytest.raises(KairosError, match="mixture weights"):
    Mixture(weights, {"a": 1})
