"""The timer: medians and tails of what a call took, others and compilation aside."""

import jax.numpy as jnp
import pytest

from kairos_jax import timing
from pallas_kernels import timing as kernels_timing


@pytest.fixture
def now(monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(kernels_timing.time, "perf_counter", lambda: clock[0])
  return clock


def test_every_second_call_counts_and_calls_take_turns(now):
  order, seconds = [], {"a": iter([90, 1, 80, 2, 70, 9]), "b": iter([5, 4] * 3)}

  def call(name):
    order.append(name)
    now[0] += next(seconds[name])

  times = timing.measure({name: lambda name=name: call(name) for name in "ab"}, rounds=3)
  assert order == list("aabb") * 3
  assert times["a"][:3] == (2, pytest.approx(8.3), 3) and times["b"][:3] == (4, 4, 3)


def test_processor_time_is_apart_from_the_clock(now, monkeypatch):
  used = [0.0]
  monkeypatch.setattr(kernels_timing.time, "process_time", lambda: used[0])
  costs = iter([90, 3, 80, 1, 70, 2])

  def call():
    now[0] += 5
    used[0] += next(costs)

  times = timing.measure({"x": call}, rounds=3)["x"]
  assert (times.median, times.processor) == (5, 2)


def test_it_goes_on_for_the_seconds_asked_for(now):
  def call():
    now[0] += 0.5
    return jnp.ones(3)

  assert timing.measure({"x": call}, rounds=1, seconds=9.5)["x"].calls == 10
  assert timing.measure({}, rounds=5) == {}
