"""No speed of a wrong result, medians of runs in turns, and absent peers in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import bench, chips, timing, workload
from tests.pallas_kernels import toy

CHIP = chips.Chip("measured", "cpu", "toy", flops=1e9, hbm_bytes_per_s=1e9, on_chip_bytes=0)


@pytest.fixture
def op(monkeypatch):
  monkeypatch.setattr(workload, "OPS", {"toy": "tests.pallas_kernels.toy"})
  monkeypatch.setattr(bench, "SECONDS", 0.0)
  monkeypatch.setattr(bench, "RUNS", 2)
  return "toy"


def with_peers(monkeypatch, **peers):
  monkeypatch.setattr(toy, "peers", lambda case: peers)


def right(x, w):
  return (x + x @ w,)


@pytest.mark.parametrize("pass_name", ["forward", "gradient"])
def test_what_is_right_is_timed(op, monkeypatch, pass_name):
  with_peers(monkeypatch, peer=bench.jax_runner(right))
  results = {result.name: result for result in bench.measure(op, "cpu", pass_name, CHIP)}
  assert list(results) == ["xla", "peer"]
  cost = workload.cost(toy, toy.CASES["cpu"], pass_name)
  for result in results.values():
    assert result.seconds > 0 and result.error <= 1e-5 and not result.reason
    assert result.roofline == pytest.approx(max(cost) / 1e9 / result.seconds)


def slightly_off(x, w):
  return (x + 1.0001 * (x @ w),)


def wrong_gradient(x, w):
  return (x + jax.lax.stop_gradient(x) @ w,)


def not_a_number(x, w):
  return ((x + x @ w).at[0, 0].set(jnp.nan),)


def wrong_when_long(x, w):
  return (x + (x @ w if len(x) <= 32 else x @ w + 0.01),)


@pytest.mark.parametrize(
  ("pass_name", "peer"),
  [
    ("forward", slightly_off),
    ("gradient", wrong_gradient),
    ("forward", not_a_number),
    ("forward", wrong_when_long),  # the reference sees only the shortened case
  ],
)
def test_what_is_wrong_gets_no_time(op, monkeypatch, pass_name, peer):
  with_peers(monkeypatch, peer=bench.jax_runner(peer))
  results = {result.name: result for result in bench.measure(op, "cpu", pass_name, CHIP)}
  assert results["peer"].seconds is None and results["peer"].roofline is None
  assert results["peer"].error > bench.TOLERANCES["float32", pass_name] and "wrong" in results["peer"].reason
  assert results["xla"].seconds > 0


def test_one_that_fails_does_not_stop_the_others(op, monkeypatch):
  def failing(x, w):
    raise TypeError("no such\n shape")

  with_peers(monkeypatch, peer=bench.jax_runner(failing))
  failed, xla = bench.measure(op, "cpu", "forward", CHIP)
  assert failed == bench.Result("peer", reason="failed: no such shape") and xla.seconds > 0


def test_an_absent_peer_is_one_line(op, monkeypatch):
  with_peers(monkeypatch, peer="fable is not installed; it comes with: pip install fable")
  *_, xla = results = list(bench.measure(op, "cpu", "forward", CHIP))
  assert results[0] == bench.Result("peer", reason="fable is not installed; it comes with: pip install fable")
  assert xla.name == "xla" and xla.seconds > 0


def test_the_median_of_runs_in_turns(monkeypatch):
  order: list[str] = []
  costs = {"a": iter([7, 5, 7, 1, 7, 9]), "b": iter([7, 1] * 3)}  # the first run of a turn does not count
  now = [0.0]
  monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
  monkeypatch.setattr(bench, "RUNS", 3)
  monkeypatch.setattr(bench, "SECONDS", 0.0)

  def run(name):
    order.append(name)
    now[0] += next(costs[name])

  assert bench.interleaved({name: lambda name=name: run(name) for name in "ab"}) == {"a": 5, "b": 1}
  assert order == list("aabb" * 3)


def test_relative_error_is_of_the_worst_array():
  want = [np.array([1.0, 100.0]), np.array([1.0, -2.0])]
  assert bench.relative_error([np.array([2.0, 100.0]), np.array([1.0, -1.0])], want) == 0.5
  assert bench.relative_error([np.array([np.nan, 100.0]), want[1]], want) == float("inf")
  with pytest.raises(ValueError):
    bench.relative_error(want[:1], want)


def test_cases_of_the_device(op, monkeypatch):
  assert bench.default_cases(op) == ["cpu"]
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  assert bench.default_cases(op) == ["4k", "32k"]


def test_an_unknown_device_is_measured(monkeypatch):
  monkeypatch.setattr(bench, "RUNS", 1)
  monkeypatch.setattr(bench, "SECONDS", 0.0)
  chip = bench.present_chip(jnp.float32)
  assert chip.name == "measured" and chip.device_kind == jax.devices()[0].device_kind
  assert 1e9 < chip.flops < 1e14 and 1e8 < chip.hbm_bytes_per_s < 1e12
