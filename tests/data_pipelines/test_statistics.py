import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import statistics
from data_pipelines.sketch import ROWS, Sketch
from data_pipelines.statistics import Moments, Statistics
from kairos_jax.errors import KairosError
from tests.data_pipelines.conftest import make_clip

SHARES = (0.0, 0.01, 0.137, 0.5, 0.9, 0.99, 1.0)


def draw(kind, count, rng):
  match kind:
    case "normal":
      values = rng.normal(3.7, 0.013, count)
    case "heavy":
      values = rng.standard_cauchy(count)
    case "few":
      values = rng.integers(0, 5, count) * 0.3
    case "rising":
      values = np.linspace(-1.3, 2.9, count)
    case "falling":
      values = -(np.linspace(-1.3, 2.9, count) ** 3)
    case "saw":
      values = (np.arange(count) % 97) * 0.37
    case _:
      values = np.where(np.arange(count) % 2, np.arange(count), -np.arange(count)) * 0.1
  return values.astype(np.float32)


KINDS = ("normal", "heavy", "few", "rising", "falling", "saw", "widening")


def rank_distance(values, answer, share):
  """From the rank asked for to the nearest rank that the answer has or lies between, as a share of the count."""
  wanted = share * (len(values) - 1)
  low, high = np.searchsorted(values, answer, "left"), np.searchsorted(values, answer, "right")
  return max(low - 1 - wanted, wanted - high, 0) / len(values)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(KINDS), st.integers(1, 6000), st.sampled_from([2, 8, 32, 256]), st.integers(0, 99), st.data())
def test_no_rank_is_further_off_than_the_sketch_says_however_it_was_merged(kind, count, rows, seed, data):
  rng = np.random.default_rng(seed)
  values = draw(kind, count, rng)
  parts = [Sketch(1, rows)]
  for batch in np.array_split(values, data.draw(st.integers(1, 40))):
    if data.draw(st.booleans()):
      parts.append(Sketch(1, rows))
    parts[-1].add(batch[:, None])
  while len(parts) > 1:
    other = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
    parts[0].merge(other)
  (sketch,) = parts
  assert sketch.count == count == sum(len(level) * 2**h for h, level in enumerate(sketch.levels))
  ordered = np.sort(values).astype(np.float64)
  for share, answer in zip(SHARES, sketch.quantiles(SHARES)[:, 0], strict=True):
    assert rank_distance(ordered, answer, share) <= sketch.rank_error + 1 / count


@pytest.mark.parametrize("kind", KINDS)
def test_the_stated_error_at_scale(kind):
  count = 300_000
  values = draw(kind, count, np.random.default_rng(1))
  sketch = Sketch(1)
  for batch in np.array_split(values, 1000):
    sketch.add(batch[:, None])
  levels = len(sketch.levels) - 1
  between = 2**levels / count
  assert sketch.rank_error <= (levels + 1) / (2 * ROWS) + between < 0.0015
  assert sum(map(len, sketch.levels)) < ROWS * (levels + 1)
  ordered = np.sort(values).astype(np.float64)
  for share, answer in zip(SHARES, sketch.quantiles(SHARES)[:, 0], strict=True):
    assert rank_distance(ordered, answer, share) <= sketch.rank_error


def test_what_fits_one_level_is_exact():
  values = np.random.default_rng(2).normal(size=(ROWS - 1, 3)).astype(np.float32)
  sketch = Sketch(3)
  for batch in np.array_split(values, 7):
    sketch.add(batch)
  assert sketch.rank_error == 0
  np.testing.assert_allclose(sketch.quantiles(SHARES), np.quantile(values.astype(float), SHARES, axis=0), rtol=1e-12)


def moments_of(values):
  made = Moments(values.shape[1])
  made.add(values)
  return made


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=6), st.integers(0, 99), st.floats(-1e4, 1e4))
def test_merging_is_associative_and_exact(sizes, seed, offset):
  rng = np.random.default_rng(seed)
  parts = [(offset + rng.normal(size=(size, 2)) * [0.01, 7.3]).astype(np.float32) for size in sizes]
  values = np.concatenate(parts).astype(np.float64)
  if not len(values):
    return
  left, right = Moments(2), Moments(2)
  for part in parts:
    left.merge(moments_of(part))
  for part in reversed(parts):
    new = moments_of(part)
    new.merge(right)
    right = new
  for merged in (left, right):
    assert merged.count == len(values)
    expected = dict(min=values.min(0), max=values.max(0), mean=values.mean(0), std=values.std(0))
    q01, q99 = np.quantile(values, (0.01, 0.99), axis=0)
    for name, value in {**expected, "q01": q01, "q99": q99}.items():
      np.testing.assert_allclose(merged.summary()[name], value, rtol=1e-9, atol=1e-9 * max(1, abs(offset)))


def test_steps_of_a_chunk_begin_at_every_entry_and_hold_the_last():
  values = np.random.default_rng(3).normal(size=(11, 2)).astype(np.float32)
  mask = np.arange(11) != 4
  made = Statistics(2, horizon=5)
  made.add(values, mask)
  labeled = values[mask].astype(np.float64)
  chunks = np.stack([labeled[np.minimum(np.arange(i, i + 5), 9)] for i in range(10)])
  summary = made.step_summary()
  expected = dict(min=chunks.min(0), max=chunks.max(0), mean=chunks.mean(0), std=chunks.std(0))
  expected |= dict(zip(("q01", "q99"), np.quantile(chunks, (0.01, 0.99), axis=0), strict=True))
  for name, value in expected.items():
    np.testing.assert_allclose(summary[name], value, rtol=1e-6, atol=1e-9)
  np.testing.assert_allclose(made.summary()["mean"], labeled.mean(0))


@pytest.mark.parametrize("horizon", [1, 4])
def test_statistics_survive_their_file_form_and_go_on_merging(horizon):
  rng = np.random.default_rng(4)
  clips = [
    make_clip(
      state=rng.normal(size=(9, 3)).astype(np.float32),
      action=rng.normal(size=(8, 2)).astype(np.float32),
      action_mask=rng.random(8) < 0.7,
    )
    for _ in range(6)
  ]
  merged, stored = {}, {}
  for clip in clips:
    part = statistics.of_clip(clip, horizon)
    statistics.merge_into(merged, part)
    tensors = statistics.to_tensors({"a/b": part})
    statistics.merge_into(stored, statistics.from_tensors(["a/b"], tensors)["a/b"])
  assert merged.keys() == stored.keys() == {"state", "action"}
  for name in merged:
    assert merged[name].count == stored[name].count
    for ours, theirs in (
      (merged[name].summary(), stored[name].summary()),
      (merged[name].step_summary(), stored[name].step_summary()),
    ):
      for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key])


def test_what_is_not_labeled_has_no_statistics():
  assert statistics.of_clip(make_clip(state_dim=0, action_dim=0)) == {}
  assert statistics.of_clip(make_clip(action_mask=np.zeros(8, bool))).keys() == {"state"}


def test_user_errors():
  with pytest.raises(KairosError, match="do not merge"):
    Statistics(3).merge(Statistics(4))
  with pytest.raises(KairosError, match="even number"):
    Sketch(1, 3)
