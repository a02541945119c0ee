"""`kairos evaluate`: the policies that its help names, its numbers with their intervals, and how it says no."""

import json
import re

import numpy as np
import pytest

from kairos_jax.cli import main as cli
from kairos_jax.demo import closed_loop
from kairos_jax.interop import saved_model
from kairos_jax.runtime.closed_loop import Outcome

WON = {"model": 7, "hidden": 5, "blind": 0, "random": 1, "expert": 9}


@pytest.fixture
def folder(tmp_path, tiny_saved, monkeypatch):
  """A run's folder with a tiny model; episodes are not run, their outcomes are those of WON."""
  saved_model.save(tmp_path / "model", tiny_saved)

  def compare(model, names, *, episodes):
    return {name: Outcome(np.arange(episodes) < WON[name], []) for name in names}

  monkeypatch.setattr(closed_loop, "compare", compare)
  return tmp_path


def test_rates_come_with_wilson_intervals(folder, capsys):
  out = folder / "new" / "rates.json"
  assert cli.main(["evaluate", f"--model={folder}", "--episodes=9", "--policies=model, blind", f"--out={out}"]) == 0
  assert capsys.readouterr().out.splitlines() == ["model    0.78  (0.45 to 0.94)", "blind    0.00  (0.00 to 0.30)"]
  report = json.loads(out.read_text())
  assert report["episodes"] == 9 and report["success"] == {"model": 7 / 9, "blind": 0.0}
  np.testing.assert_allclose(report["interval"]["model"], [0.4526, 0.9368], atol=1e-4)


def test_the_line_that_the_help_shows_works(folder, capsys):
  """Names held commas, the help separated them by commas, and the command by semicolons."""
  assert cli.main(["evaluate", "--help"]) == 0
  shown = re.search(r"--policies=([^\]\s]+)", capsys.readouterr().out).group(1)
  assert cli.main(["evaluate", f"--model={folder}", "--episodes=9", f"--policies={shown}"]) == 0
  assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == shown.split(",")
  assert cli.main(["evaluate", f"--model={folder}", "--episodes=9", f"--policies={','.join(WON)}"]) == 0


def test_an_unknown_policy_is_told_before_the_model_is_loaded(capsys):
  assert cli.main(["evaluate", "--model=nowhere", "--policies=model,blnd"]) == 2
  err = capsys.readouterr().err
  assert err == "kairos: no policy 'blnd'; did you mean blind?; there are model,hidden,blind,random,expert\n"
