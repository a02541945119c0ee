import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.curriculum import Curriculum, Mixture, linear
from kairos_jax.errors import KairosError

shares = st.lists(st.integers(0, 10), min_size=3, max_size=3).filter(any)


@settings(deadline=None)
@given(shares, shares, st.integers(1, 400), st.integers(0, 5))
def test_every_prefix_has_the_scheduled_mixture(start, end, samples, seed):
  mixture = Mixture(dict(zip("abc", start, strict=True)), dict(zip("abc", end, strict=True)))
  curriculum = Curriculum(mixture, samples, seed)
  sources = np.array([curriculum[i][0] for i in range(samples)])
  drawn = np.cumsum(sources[:, None] == np.arange(len(mixture.names)), axis=0)
  first, last = mixture.shares()
  time = np.arange(1, samples + 1)[:, None]
  due = first * time + (last - first) * time**2 / (2 * samples)
  assert np.abs(drawn - due).max() <= 3


@given(st.integers(1, 50), st.integers(0, 5))
def test_every_source_is_read_in_its_own_order_without_gaps_even_beyond_the_stage(samples, seed):
  curriculum = Curriculum(Mixture({"a": 1}, {"a": 1, "b": 2}), samples, seed)
  draws = [curriculum[i] for i in range(3 * samples + 7)]
  for source in (0, 1):
    positions = [position for drawn, position in draws if drawn == source]
    assert positions == list(range(len(positions)))


def test_after_the_stage_the_end_mixture_goes_on():
  curriculum = Curriculum(Mixture({"a": 1}, {"a": 1, "b": 3}), 1000, 0)
  after = [curriculum[i][0] for i in range(1000, 3000)]
  assert np.mean(after) == pytest.approx(0.75, abs=0.01)


def test_striding_favors_no_source():
  curriculum = Curriculum(Mixture({"a": 1, "b": 1}, {"a": 1, "b": 1}), 1000, 0)
  assert np.mean([curriculum[i][0] for i in range(0, 1000, 2)]) == pytest.approx(0.5, abs=0.08)


def test_linear_stays_at_its_end():
  assert [linear((0.0, 1.0), i, 10) for i in (0, 5, 10, 99)] == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("weights", [{}, {"a": 0}, {"a": 1, "b": -1}])
def test_what_is_no_mixture(weights):
  with pytest.raises(KairosError, match="mixture weights"):
    Mixture(weights, {"a": 1})
