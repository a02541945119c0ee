"""Arms beside each other: what the config asks for, cells that are kept, and when the named arm has won."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from experiments import evolve as experiment_file
from kairos_jax.demo import evolution_report
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import cells
from kairos_jax.evaluation.comparison import MOVING, Score
from kairos_jax.evolution import arms
from kairos_jax.evolution.refine import METHODS
from kairos_jax.interop import saved_model


@pytest.fixture(scope="module")
def experiment():
  return arms.parse_experiment(experiment_file.get_config())


def test_what_is_named_before_the_run(experiment):
  assert experiment.env == MOVING and experiment.seeds == 5 and experiment.tested == 400 and experiment.rounds == 2
  runs = [experiment.run(method, seed=3, rounds=2) for method in METHODS]
  assert {run.method for run in runs} == set(METHODS) == set(arms.ARMS) - {arms.BASE}
  assert len({dataclasses.replace(run, method="nft") for run in runs}) == 1, "arms differ in more than their method"
  config = experiment_file.get_config()
  config.evolution.expected = "placebo"
  with pytest.raises(KairosError, match="evolution.expected is 'placebo'; allowed: 'filtered', 'nft'"):
    arms.parse_experiment(config)


def test_cells_share_what_they_can_and_are_kept(experiment, tmp_path, tiny_saved, monkeypatch):
  """Acting and refining are stood in for: an arm's policy is a folder that names its round."""
  saved_model.save(tmp_path / "base", tiny_saved)
  ours = dataclasses.replace(experiment, model=str(tmp_path / "base"), tested=10)
  evolved, measured = [], []

  def evolve(run, workdir, shared):
    evolved.append((run.method, run.rounds, workdir.name, shared))
    return Path(run.model) if run.rounds == 0 else Path(f"{run.method}/{run.rounds}")

  def compare(policy, names, *, episodes, record, env, seed):
    measured.append((str(policy), seed, record.path))
    return {"model": Score(3 + len(policy.parts) % 2, episodes, 0, [])}

  monkeypatch.setattr(arms, "evolve", evolve)
  monkeypatch.setattr(arms, "compare", compare)
  monkeypatch.setattr(arms.runtime, "load", lambda folder: folder)
  monkeypatch.setattr(arms, "_fingerprint", lambda experiment: cells.hashed(dataclasses.asdict(experiment)))
  chosen = cells.share(["base", "nft"], 2)
  arms.run(ours, chosen[:3], tmp_path, resume=False)
  assert [(method, rounds) for method, rounds, *_ in evolved] == [("nft", 0), ("nft", 1), ("nft", 2)]
  assert {where for *_, where in evolved} == {tmp_path} and evolved[0][2] == "nft-0"
  # The base is measured on the same episodes in every arm of a seed, and on others in another seed.
  seeds = [seed for policy, seed, _ in measured if policy == ours.model]
  assert seeds[:4] == [seeds[0]] * 4 and seeds[4] != seeds[0]
  assert {path for *_, path in measured} == {tmp_path / "evaluation.jsonl"}
  with pytest.raises(KairosError, match="--resume"):
    arms.run(ours, chosen, tmp_path, resume=False)
  rows = arms.run(ours, chosen, tmp_path, resume=True)
  assert len(evolved) == 6 and [row["variant"] for row in rows] == ["base", "nft", "base", "nft"]
  with pytest.raises(KairosError, match="another config"):
    arms.run(dataclasses.replace(ours, steps=7), chosen, tmp_path, resume=True)


def rows(**curves):
  """Rows of 400 episodes, from a list of curves for each arm, one for each seed."""
  return [
    dict(variant=arm, seed=seed, episodes=400, successes=[round(400 * rate) for rate in curve], cpu_minutes=1.0)
    for arm, every in curves.items()
    for seed, curve in enumerate(every)
  ]


def controls(seeds=5):
  return dict(demonstrations=[[0.5, 0.55, 0.58]] * seeds, placebo=[[0.5, 0.5, 0.6]] * seeds)


@pytest.mark.parametrize(
  ("filtered", "passed"),
  [
    ([[0.5, 0.6, 0.7]] * 5, True),
    ([[0.5, 0.6, 0.67]] * 5, False),  # 0.07 over the placebo
    ([[0.5, 0.6, 0.59]] * 2 + [[0.5, 0.6, 0.95]] * 3, False),  # in 3 of 5 seeds
    ([[0.5, 0.6, 0.4]] + [[0.5, 0.6, 0.85]] * 4, False),  # the bootstrap reaches below 0
    ([[0.5, 0.8, 0.75]] * 5, False),  # worse than after the first round
    ([[0.5, 0.6, 0.7]] * 4, None),  # a seed is missing
  ],
)
def test_the_verdict(experiment, filtered, passed):
  verdict = arms.judge(experiment, rows(filtered=filtered, **controls()))
  assert verdict.passed is passed and verdict.control == "placebo" and verdict.seeds == len(filtered)
  assert verdict.gain.value == pytest.approx(np.mean(filtered, axis=0)[-1] - 0.6)
  line = arms.told(experiment, verdict)
  assert {True: "passed", False: "failed", None: "undecided"}[passed] in line
  assert arms.judge(experiment, rows(filtered=filtered)) is None


def test_the_report(tmp_path):
  header, lines = evolution_report.write(
    rows(filtered=[[0.5, 0.6, 0.7], [0.5, 0.7, 0.9]], base=[[0.5] * 3]), arms.ARMS, None, tmp_path
  )
  assert header == ["arm", "seeds", "base", "round 1", "round 2"]
  assert [line[0] for line in lines] == ["base", "filtered"] and lines[1][-1] == "0.800 (0.700 to 0.900)"
  assert (tmp_path / "curves.png").exists()
  assert json.loads((tmp_path / "results.json").read_text())["cpu_hours"] == 3 / 60
  with pytest.raises(KairosError, match="holds no finished cell"):
    evolution_report.write([], arms.ARMS, None, tmp_path)
