"""The fastest tiling that is right is kept."""

import jax
import pytest

from pallas_kernels import bench, tiles, tune, workload
from tests.pallas_kernels import toy


@pytest.fixture
def trials(tmp_path, monkeypatch):
  """Runs the tuner on given tilings (rows -> function), as on an accelerator where these times were taken."""
  monkeypatch.setattr(workload, "OPS", {"toy": "tests.pallas_kernels.toy"})
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  monkeypatch.setattr(tiles, "PATH", tmp_path / "tiles.json")
  tiles.PATH.write_text("{}")

  def run(tilings, times):
    monkeypatch.setattr(toy, "tilings", lambda case, name: (name, {toy.Tiles(n): f for n, f in tilings.items()}))
    monkeypatch.setattr(bench, "interleaved", lambda runs: {name: times[name] for name in runs})
    return list(tune.tune("toy", "cpu"))

  return run


def kernel(rows):
  return lambda x, w: toy.kernel(x, w, "tpu", rows, True)


def broken(x, w):
  raise ValueError("rows is\n 8; allowed: 16")


def test_the_fastest_is_saved(trials):
  got = trials({16: kernel(16), 32: kernel(32)}, {"Tiles(rows=16)": 2e-3, "Tiles(rows=32)": 1e-3})
  assert [(trial.tiling.rows, trial.seconds) for trial in got] == [(16, 2e-3), (32, 1e-3)]
  assert tiles.lookup("toy", jax.devices()[0].device_kind, "pallas_tpu") == {"rows": 32}


def test_what_is_wrong_or_does_not_compile_is_not_saved(trials):
  got = trials({8: broken, 16: kernel(16), 32: lambda x, w: (2 * x,)}, {"Tiles(rows=16)": 1e-3})
  assert [(trial.tiling.rows, trial.seconds) for trial in got] == [(8, None), (32, None), (16, 1e-3)]
  assert got[0].reason == "rows is 8; allowed: 16" and got[1].reason.startswith("wrong")
  assert tiles.lookup("toy", jax.devices()[0].device_kind, "pallas_tpu") == {"rows": 16}


def test_nothing_is_saved_where_nothing_runs(trials):
  assert [trial.seconds for trial in trials({8: broken}, {})] == [None]
  assert tiles.PATH.read_text() == "{}"
