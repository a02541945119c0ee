"""Notebooks run from top to bottom, on models of random weights. They are scripts, so that no output is kept."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from kairos_jax.interop import saved_model
from tests import tiny

NOTEBOOKS = sorted((Path(__file__).parents[1] / "experiments/notebooks").glob("*.py"))
SAYS = {  # what each prints, and how many episodes it is run on
  "01_probe_a_stream": ("the donor's", 12),
  "02_theorem_1": ("swa_long, seed 0: risk [0.7]", 4),
  "03_theorem_2": ("swa_dswa: PSNR", 5),
  "04_transplant_a_memory": ("swa_dswa-0, layer 1, SWA", 2),
  "05_your_own_model": ("finite: True", 1),
}


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
  """A grid of towers as `kairos ablate` leaves it, untrained."""
  folder = tmp_path_factory.mktemp("grid")
  layers = {"paper": ("GATED", "SWA"), "swa": ("SWA", "SWA"), "swa_dswa": ("DSWA", "SWA")}
  for name, kinds in layers.items():
    saved_model.save(folder / f"{name}-0" / "model", tiny.saved(tiny.model_config(layers=kinds, video_frames=1)))
  for name in ("swa", "swa_narrow", "swa_wide", "swa_long"):
    row = dict(seed=0, risk={"0": 0.1, "96": 0.7}, reach_delay=20, successes={"0": 9, "96": 2}, episodes=9)
    (folder / f"{name}-0").mkdir(exist_ok=True)
    (folder / f"{name}-0" / "row.json").write_text(json.dumps(row))
  return folder


def test_every_notebook_is_run():
  assert [path.stem for path in NOTEBOOKS] == list(SAYS)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, grid, tiny_saved, tmp_path, monkeypatch, capsys):
  for needed in ("IPython", "sklearn"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: it is in the extra `notebook`")
  said, episodes = SAYS[path.stem]
  if path.stem.startswith("01"):
    saved_model.save(tmp_path / "model", tiny_saved)
    monkeypatch.setenv("KAIROS_MODEL", str(tmp_path / "model"))
  monkeypatch.setenv("KAIROS_MEMORY", str(grid))
  monkeypatch.setenv("KAIROS_EPISODES", str(episodes))
  monkeypatch.setenv("KAIROS_MINUTES", "0.1")
  monkeypatch.setenv("KAIROS_DELAY", "4")
  monkeypatch.setenv("KAIROS_STEADY", "12")
  with np.errstate(all="ignore"):
    runpy.run_path(str(path))
  assert said in capsys.readouterr().out
