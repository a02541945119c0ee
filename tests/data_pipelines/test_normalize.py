import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_pipelines.normalize import Normalizer, summarize
from kairos_jax.errors import KairosError

values = hnp.arrays(
  np.float32, st.tuples(st.integers(1, 20), st.integers(1, 4)), elements=st.floats(-100, 100, width=32)
)


@given(values)
def test_denormalize_inverts_normalize(x):
  normalizer = Normalizer.from_statistics(summarize(x))
  np.testing.assert_allclose(normalizer.denormalize(normalizer.normalize(x)), x, atol=1e-3)


@given(values)
def test_quantiles_become_the_ends_and_constants_zero(x):
  normalizer = Normalizer.from_statistics(summarize(x))
  low, high = normalizer.normalize(normalizer.low), normalizer.normalize(normalizer.high)
  varies = normalizer.high - normalizer.low > 1e-3
  np.testing.assert_allclose(low[varies], -1, atol=1e-2)
  np.testing.assert_allclose(high[varies], 1, atol=1e-2)
  assert np.abs(low).max() <= 1.01 and np.abs(high).max() <= 1.01


@given(values)
def test_json_round_trip(x):
  normalizer = Normalizer.from_statistics(summarize(x))
  back = Normalizer.from_json(normalizer.to_json())
  np.testing.assert_array_equal(back.low, normalizer.low)
  np.testing.assert_array_equal(back.high, normalizer.high)


@pytest.mark.parametrize(
  "text", ["", "[]", '{"low": [0]}', '{"low": [0], "high": [1, 2]}', '{"low": "x", "high": [1]}']
)
def test_what_is_no_normalizer(text):
  with pytest.raises(KairosError):
    Normalizer.from_json(text)
