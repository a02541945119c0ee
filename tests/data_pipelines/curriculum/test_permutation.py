import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.curriculum.permutation import Permutation


@settings(max_examples=30)
@given(st.integers(1, 700), st.integers(0, 2**64 - 1))
def test_every_element_has_a_place_of_its_own(size, seed):
  assert sorted(map(Permutation(size, seed).__getitem__, range(size))) == list(range(size))


def test_orders_differ_and_no_place_is_favored():
  first = np.array([[Permutation(11, 7, epoch)[place] for place in (0, 5, 10)] for epoch in range(3300)])
  for column in first.T:
    assert np.bincount(column, minlength=11) == pytest.approx(np.full(11, 300), abs=75)  # four deviations
