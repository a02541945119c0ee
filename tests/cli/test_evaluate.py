"""`kairos evaluate`: the policies that its help names, its numbers with their intervals, and how it says no."""

import json
import re

import numpy as np
import pytest

from data_pipelines.simulate.environments import named
from kairos_jax.cli import main as cli
from kairos_jax.evaluation import comparison
from kairos_jax.evaluation.comparison import Score
from kairos_jax.interop import saved_model

WON = {"model": 7, "hidden": 5, "blind": 0, "random": 1, "expert": 9}


@pytest.fixture
def asked():
  return []


@pytest.fixture
def folder(tmp_path, tiny_saved, monkeypatch, asked):
  """A run's folder with a tiny model; episodes are not run, their outcomes are those of WON."""
  saved_model.save(tmp_path / "model", tiny_saved)

  def compare(model, names, *, env, episodes, record, seed):
    asked.append((env, episodes, seed, record.path))
    return {name: Score(WON[name], episodes, 0, []) for name in names}

  monkeypatch.setattr(comparison, "compare", compare)
  return tmp_path


def test_rates_come_with_wilson_intervals(folder, asked, capsys):
  out = folder / "new"
  flags = ["--episodes=9", "--policies=model, blind", "--seed=4", f"--out={out}"]
  assert cli.main(["evaluate", f"--model={folder}", *flags]) == 0
  assert capsys.readouterr().out.splitlines() == [
    "model    0.78  (0.45 to 0.94)  7 of 9",
    "blind    0.00  (0.00 to 0.30)  0 of 9",
    f"written to {out}",
  ]
  report = json.loads((out / "rates.json").read_text())
  assert report["episodes"] == 9 and report["seed"] == 4 and report["success"] == {"model": 7 / 9, "blind": 0.0}
  np.testing.assert_allclose(report["interval"]["model"], [0.4526, 0.9368], atol=1e-4)
  assert asked == [("cue_reach", 9, 4, out / "episodes.jsonl")]


def test_what_it_writes_lies_beside_the_model_unless_told(folder, asked):
  assert cli.main(["evaluate", f"--model={folder}"]) == 0
  assert (
    asked == [("cue_reach", 100, 0, folder / "evaluation" / "episodes.jsonl")]
    and (folder / "evaluation/rates.json").exists()
  )


def test_the_lines_that_the_help_shows_work(folder, capsys):
  """Names held commas, the help separated them by commas, and the command by semicolons."""
  assert cli.main(["evaluate", "--help"]) == 0
  text = capsys.readouterr().out
  lines = re.findall(r"^  kairos (evaluate .*)$", text, flags=re.MULTILINE)
  assert len(lines) == 5
  for line in lines:
    words = [f"--model={folder}" if word.startswith("--model") else word for word in line.split()]
    assert cli.main([word.replace("runs/", f"{folder}/runs/") for word in words]) == 0
  assert all(name in text for name in comparison.ENTRIES) and "goes on with the episodes that are missing" in text


def test_an_unknown_policy_is_told_before_the_model_is_loaded(capsys):
  assert cli.main(["evaluate", "--model=nowhere", "--policies=model,blnd"]) == 2
  err = capsys.readouterr().err
  names = "model,hidden,blind,random,expert,held0,held8,held16,held32"
  assert err == f"kairos: no policy 'blnd'; did you mean blind?; there are {names}\n"


def test_a_robot_s_name_is_all_of_its_tasks_and_their_sum(folder, asked, capsys):
  assert cli.main(["evaluate", f"--model={folder}", "--env=metaworld", "--episodes=20", "--policies=model,expert"]) == 0
  out = capsys.readouterr().out.splitlines()
  assert [env for env, *_ in asked] == named("metaworld") and len(asked) == 6
  assert out[0].split() == ["metaworld:reach", "model", "0.35", "(0.18", "to", "0.57)", "7", "of", "20"]
  assert out[-2].split()[:3] == ["all", "expert", "0.45"] and out[-2].endswith("54 of 120")
  report = json.loads((folder / "evaluation/rates.json").read_text())
  assert report["success"]["metaworld:push model"] == 0.35 and len(report["success"]) == 14


@pytest.mark.parametrize(
  "argv, line",
  [
    (["--env=moon", "--out=x", "--policies=random"], "no environment 'moon': metaworld:reach, "),
    (["--env=fetch"], "evaluate takes flags only, and needs --model=FOLDER, or --policies=random,expert and --out"),
    (["now", "--model=x"], "evaluate takes flags only"),
  ],
)
def test_a_mistake_is_one_line(argv, line, capsys):
  assert cli.main(["evaluate", *argv]) == 2
  err = capsys.readouterr().err
  assert err.startswith("kairos: ") and line in err and err.count("\n") == 1
