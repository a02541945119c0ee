"""What a round trains on, when it is accepted, that it goes on, and a whole one at the tiny shape."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines import records
from data_pipelines.simulate.generate import build
from kairos_jax import files
from kairos_jax.cli import evolve as evolve_command
from kairos_jax.errors import KairosError
from kairos_jax.evolution import refine, rounds
from kairos_jax.evolution.rounds import Evolution, evolve
from kairos_jax.interop import saved_model
from kairos_jax.replay import Replay
from kairos_jax.training.run_config import parse_run
from tests import tiny
from tests.evolution.killed import episode

EPISODES = [(clip, origin.success) for clip, origin in map(episode, range(40))]


def test_the_command_knows_every_method():
  assert set(evolve_command._METHODS) == set(refine.METHODS)


def test_each_method_trains_on_what_it_says():
  sort_out = lambda method: refine.sort_out(EPISODES, method, seed=3)  # noqa: E731
  names = lambda clips: [clip.provenance["origin"]["seed"] for clip in clips]  # noqa: E731
  won = [seed for seed, (_, success) in enumerate(EPISODES) if success]
  assert sort_out("demonstrations") == {}
  assert names(sort_out("filtered")["won"]) == won and set(sort_out("filtered")) == {"won"}
  assert names(sort_out("nft")["won"]) == won
  assert sorted(names(sort_out("nft")["lost"]) + won) == list(range(40))
  placebo = names(sort_out("placebo")["won"])
  assert len(placebo) == len(won) and placebo != won and placebo == names(sort_out("placebo")["won"])
  assert refine.sort_out([(EPISODES[0][0], False)], "filtered", 0) == {}


@pytest.fixture
def arranged(tmp_path, tiny_saved, monkeypatch):
  """A base model, and stand-ins for acting and training: a round's model is the base, moved; rates are told here."""
  saved_model.save(tmp_path / "base/model", tiny_saved)
  (tmp_path / "taught").mkdir()
  trained, rates = [], {}

  def roll_out(work, every, engine):
    for number, seed in enumerate(every):
      clip, origin = episode(number)
      origin = origin._replace(model=work.name, environment=work.env, seed=seed)
      Replay(work.replay).add(dataclasses.replace(clip, provenance={"origin": origin._asdict()}), origin)

  def run(config, workdir):
    parse_run(config)
    trained.append(config)
    start = saved_model.load(config.init_from)
    moved = jax.tree.map(lambda x: x + 1, start.params["action"])
    saved_model.save(workdir / "model", dataclasses.replace(start, params={**start.params, "action": moved}))
    return workdir / "model"

  monkeypatch.setattr(rounds, "roll_out", roll_out)
  monkeypatch.setattr(rounds.curriculum, "run", run)
  monkeypatch.setattr(rounds, "_held_out", lambda model, run, record: rates[_moves(model.saved, tiny_saved)])
  return tmp_path, trained, rates


def _moves(saved, base):
  """How often training moved the model."""
  ours, theirs = (jax.tree.leaves(x.params["action"])[0] for x in (saved, base))
  return round(float(np.mean(ours - theirs)))


def evolution(folder, **changes):
  run = Evolution(str(folder / "base"), str(folder / "taught"), "nft", rounds=3, episodes=6, steps=2, held_out=5)
  return dataclasses.replace(run, **changes)


def test_a_worse_round_is_rolled_back_and_a_killed_one_goes_on(arranged):
  folder, trained, rates = arranged
  rates.update({0: 0.4, 1: 0.6, 2: 0.5})
  assert evolve(evolution(folder), folder / "run") == folder / "run/round_1/train/model"
  report = json.loads((folder / "run/report.json").read_text())
  assert [one["accepted"] for one in report["rounds"]] == [True, False, False]
  assert [(one["before"], one["after"]) for one in report["rounds"]] == [(0.4, 0.6), (0.6, 0.5), (0.6, 0.5)]
  # The second round and the third roll out the same policy, on seeds of their own.
  hashes = [one["policy"] for one in report["rounds"]]
  assert hashes[0] != hashes[1] == hashes[2]
  assert [len(Replay(folder / "run/replay").kept(name, "cue_reach")) for name in hashes] == [6, 12, 12]
  assert [config.init_from for config in trained][1:] == [str(folder / "run/round_1/train/model")] * 2

  # Finished rounds are not run again; a fourth goes on.
  assert evolve(evolution(folder, rounds=4), folder / "run") == folder / "run/round_1/train/model"
  assert len(trained) == 4
  with pytest.raises(KairosError, match="episodes"):
    evolve(evolution(folder, episodes=7), folder / "run")


def test_what_a_round_asks_of_training(arranged):
  folder, trained, rates = arranged
  rates.update({0: 0.4, 1: 0.6})
  evolve(evolution(folder, rounds=1), folder / "nft")
  (config,) = trained
  stage = parse_run(config).stages["refined"]
  assert stage.nft is not None and stage.nft.lost == ("lost",)
  assert stage.mixture.start["taught"] == 0.5 and sum(stage.mixture.start.values()) == pytest.approx(1.0)
  evolve(evolution(folder, rounds=1, method="demonstrations"), folder / "control")
  stage = parse_run(trained[-1]).stages["refined"]
  assert stage.nft is None and stage.mixture.start == {"taught": 1.0} and "video/*" in stage.frozen


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nft", "filtered"])
def test_a_whole_round(tmp_path, method):
  build(tmp_path / "data", dict(robot=3), seed=0, size=16)
  saved_model.save(tmp_path / "base", dataclasses.replace(tiny.saved(), frame_size=(16, 16)))
  run = Evolution(str(tmp_path / "base"), str(tmp_path / "data/robot"), method, 1, episodes=3, steps=2, held_out=2)
  evolve(run, tmp_path / "run")
  (one,) = json.loads((tmp_path / "run/report.json").read_text())["rounds"]
  assert one["rolled_out"]["episodes"] == 3 and sum(one["trained_on"].values()) == (3 if method == "nft" else 0)
  before, after = (saved_model.load(folder) for folder in (tmp_path / "base", tmp_path / "run/round_1/train"))
  same = jax.tree.map(np.array_equal, before.params, after.params)
  assert all(jax.tree.leaves(same["video"])) and all(jax.tree.leaves(same["codec"]))
  assert not all(jax.tree.leaves(same["action"])) and before.embodiments.keys() == after.embodiments.keys()


@pytest.mark.slow
def test_a_run_that_is_killed_at_ten_moments(tmp_path):
  """It ends with the same model as an undisturbed one; no finished episode is lost, and none is there twice."""
  command = [sys.executable, "-m", "tests.evolution.killed_run", str(tmp_path), "10"]
  subprocess.run(command, check=True, cwd=Path(__file__).parents[2], env=os.environ | {"JAX_PLATFORMS": "cpu"})
  whole, *killed = (tmp_path / name for name in ["undisturbed", *(path.name for path in tmp_path.glob("killed_*"))])
  assert killed
  expected = _what_came_of(whole)
  for folder in killed:
    assert _what_came_of(folder) == expected, folder.name
    told = [tuple(json.loads(line)) for line in (folder / "told").read_text().splitlines()]
    assert len(told) == len(set(told))
    assert set(told) <= {(one["origin"]["model"], one["origin"]["seed"]) for one in _provenances(folder)}


def _what_came_of(folder):
  """The rounds, the best model's content, and every episode's file by its place."""
  report = json.loads((folder / "report.json").read_text())
  best = saved_model.load(report.pop("best"))
  episodes = {str(path.relative_to(folder)): files.sha256(path) for path in sorted(folder.rglob("*.clip"))}
  return report, saved_model.content_hash(best), episodes


def _provenances(folder):
  return [records.decode(path.read_bytes()).provenance for path in sorted(folder.rglob("*.clip"))]
