"""Notebooks run from top to bottom, on a model of random weights. They are scripts, so that no output is kept."""

import runpy
from pathlib import Path

import pytest

from kairos_jax.interop import saved_model

NOTEBOOKS = sorted((Path(__file__).parents[1] / "experiments/notebooks").glob("*.py"))


def test_there_are_notebooks():
  assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tiny_saved, tmp_path, monkeypatch, capsys):
  for needed in ("IPython", "sklearn"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: it is in the extra `notebook`")
  saved_model.save(tmp_path / "model", tiny_saved)
  monkeypatch.setenv("KAIROS_MODEL", str(tmp_path / "model"))
  monkeypatch.setenv("KAIROS_EPISODES", "12")
  runpy.run_path(str(path))
  assert "the donor's" in capsys.readouterr().out
