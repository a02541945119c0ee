"""`kairos merge`: a model of several, the table of losses, and how it says no."""

import json

import numpy as np
import pytest

from kairos_jax.cli import main as cli
from kairos_jax.cli import merge
from kairos_jax.interop import merge_rules, saved_model
from tests.interop.test_merge_models import changed, flat
from tests.model.conftest import quick_compiles  # noqa: F401


@pytest.fixture
def folder(tmp_path, tiny_saved):
  for name, saved in {"base": tiny_saved, "a": changed(tiny_saved, 1), "b": changed(tiny_saved, 2)}.items():
    saved_model.save(tmp_path / name, saved)
  return tmp_path


def test_the_command_knows_every_method():
  assert set(merge._METHODS) == set(merge_rules.METHODS)


def test_a_soup_and_its_losses_by_domain(folder, capsys):
  counts = "--counts=physics:1,hand:1,robot:3"
  assert cli.main(["data", "build", f"--out={folder / 'data'}", counts]) == 0
  data = f"--data={folder / 'data/robot'}"
  out = folder / "out"
  line = ["merge", f"--models={folder / 'a'},{folder / 'b'}", "--method=soup", f"--out={out}", "--weights=0,2"]
  assert cli.main([*line, data, "--clips=2"]) == 0, capsys.readouterr().err
  printed = capsys.readouterr().out
  assert "robot action" in printed and "2 models by soup" in printed and "merged" in printed
  merged, b = (flat(saved_model.load(folder / name).params) for name in ("out", "b"))
  assert all(np.allclose(merged[name], b[name], atol=1e-6) for name in b)
  report = json.loads((out / "merge.json").read_text())
  losses = report["losses"]
  assert set(losses["merged"]) == {"robot video", "robot action"}
  for name, value in losses["merged"].items():
    np.testing.assert_allclose(value, losses[str(folder / "b")][name], rtol=1e-5)
    assert abs(value - losses[str(folder / "a")][name]) > 1e-4
  assert report["weights"] == [0.0, 2.0] and report["method"] == "soup"


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    ([], "flag --models is missing; allowed: two or more"),
    (["--models=a,b"], "flag --method is missing; allowed: soup, ties, dare, cart, wudi"),
    (["--models=a,b", "--method=soup"], "flag --out is missing; allowed: a folder to write to"),
    (
      ["--models=a,b", "--method=slerp", "--out=x"],
      "flag --method=slerp: value should be one of <soup|ties|",
    ),
    (["--models=a,b", "--method=soup", "--out=x", "--density=0.1"], "--density is given; soup reads none, but ties do"),
    (["--models=a,b", "--method=soup", "--out=x", "--weights=1,y"], "flag --weights is 1,y; allowed: numbers"),
    (["--models=a,b", "--method=soup", "--out=x"], "a holds no finished model: model.json is missing"),
  ],
)
def test_mistakes_are_told_in_one_line(flags, says, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert cli.main(["merge", *flags]) == 2
  assert says in capsys.readouterr().err
