"""What is compared: on which episodes, what is kept of an evaluation that was interrupted, and what is said of it."""

import dataclasses
import json

import numpy as np
import pytest

from data_pipelines.simulate import generate
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import comparison, intervals
from kairos_jax.evaluation.record import EpisodeRecord
from kairos_jax.interop import saved_model
from kairos_jax.runtime import WorldModel
from tests.evaluation.counter import Counter


class Short(Counter):
  """Three to seven steps long; what drives it well is the expert, whose first number is always odd."""

  cue, license, pictures = "visible", "MIT", True

  def reset(self, seed):
    first = super().reset(3 + seed % 5)
    started.append(seed)
    return first

  def expert(self):
    return np.ones(3, np.float32)


started: list[int] = []
speeds: set[float] = set()  # of the balls


@pytest.fixture
def model(tiny_saved, monkeypatch):
  def begin(self, size, robot, speed):
    assert robot == next(iter(tiny_saved.embodiments))
    Counter.__init__(self, size)
    speeds.add(speed)

  monkeypatch.setattr(comparison, "CueReach", Short)
  monkeypatch.setattr(Short, "__init__", begin)
  started.clear()
  speeds.clear()
  return WorldModel(tiny_saved)


def compare(model, folder, names=("expert",), episodes=5, **options):
  return comparison.compare(
    model, list(names), episodes=episodes, record=EpisodeRecord(folder / "episodes.jsonl"), **options
  )


def test_all_entries_run_the_same_episodes_of_derived_seeds(model, tmp_path):
  scores = compare(model, tmp_path, ("random", "expert", "hidden"))
  assert started == comparison.episode_seeds(5) * 3 and len(set(started)) == 5 and min(started) > 10**9
  assert (scores["expert"].successes, scores["expert"].episodes, scores["expert"].kept) == (5, 5, 0)
  assert scores["random"].successes == 0 and scores["random"].rate == intervals.wilson(0, 5)
  assert comparison.episode_seeds(3, seed=1) != comparison.episode_seeds(3)
  assert comparison.episode_seeds(3) == comparison.episode_seeds(5)[:3]


def test_evaluation_clips_and_episodes_are_none_of_the_trainings(model):
  """Training data are clips of [seed, kind, index] with a small seed; these are 63-bit numbers."""
  rng = lambda *words: np.random.default_rng(list(words)).integers(2**63)  # noqa: E731
  trained = {rng(seed, kind, index) for seed in range(3) for kind in range(len(generate.KINDS)) for index in range(50)}
  assert not trained & {np.random.default_rng(seed).integers(2**63) for seed in comparison.episode_seeds(100)}


def test_an_interrupted_evaluation_goes_on_with_the_rest_and_says_so(model, tmp_path, monkeypatch, capsys):
  step, count = Short.step, [0]

  def interrupted(self, action):
    count[0] += 1
    if count[0] > 20:
      raise KeyboardInterrupt
    return step(self, action)

  monkeypatch.setattr(Short, "step", interrupted)
  with pytest.raises(KeyboardInterrupt):
    compare(model, tmp_path, episodes=9)
  monkeypatch.setattr(Short, "step", step)
  done = len((tmp_path / "episodes.jsonl").read_text().splitlines())
  assert 0 < done < 9
  started.clear()
  capsys.readouterr()
  score = compare(model, tmp_path, episodes=9)["expert"]
  assert len(started) == 9 - done and (score.successes, score.episodes, score.kept) == (9, 9, done)
  assert f"expert: {done} of 9 episodes are kept in {tmp_path}/episodes.jsonl; the other" in capsys.readouterr().out
  assert compare(model, tmp_path, episodes=9)["expert"].kept == 9 and len(started) == 9 - done
  assert "nothing is left to run" in capsys.readouterr().out


def test_more_episodes_run_only_the_new_ones(model, tmp_path):
  compare(model, tmp_path, episodes=4)
  started.clear()
  assert compare(model, tmp_path, episodes=7)["expert"].kept == 4
  assert started == comparison.episode_seeds(7)[4:]


@pytest.mark.parametrize("change", ["model", "entry", "seed"])
def test_another_model_policy_or_seed_keeps_nothing(model, tmp_path, change):
  compare(model, tmp_path)
  started.clear()
  if change == "model":
    model = WorldModel(dataclasses.replace(model.saved, clip_frames=13))
  score = compare(model, tmp_path, ["random" if change == "entry" else "expert"], seed=int(change == "seed"))
  assert [one.kept for one in score.values()] == [0] and len(started) == 5


def test_what_is_filmed_runs_again_and_comes_in_order(model, tmp_path):
  compare(model, tmp_path)
  started.clear()
  score = compare(model, tmp_path, film={"expert": 2, "random": 1})["expert"]
  seeds = comparison.episode_seeds(5)
  assert started == seeds[:2] and score.kept == 3 and score.successes == 5
  assert [len(film) for film in score.films] == [1 + 3 + seed % 5 for seed in seeds[:2]]


def test_no_episodes(model, tmp_path):
  with pytest.raises(KairosError, match="0 episodes asked for"):
    compare(model, tmp_path, episodes=0)


def test_lines_name_the_models_content(model, tmp_path):
  compare(model, tmp_path, episodes=1)
  line = json.loads((tmp_path / "episodes.jsonl").read_text())
  assert line == {
    "model": saved_model.content_hash(model.saved),
    "policy": "expert",
    "environment": "cue_reach/visible",
    "seed": comparison.episode_seeds(1)[0],
    "success": True,
    "steps": 3 + comparison.episode_seeds(1)[0] % 5,
  }


def test_another_environment_without_a_model(tmp_path, monkeypatch):
  """Its episodes have seeds of their own, and its policies are those that know nothing of a bar's color."""
  monkeypatch.setitem(comparison.ENVIRONMENTS, "count:odd", Short)
  started.clear()
  scores = compare(None, tmp_path, ("random", "expert"), env="count:odd")
  assert started == comparison.episode_seeds(5, env="count:odd") * 2 != comparison.episode_seeds(5) * 2
  assert (scores["random"].successes, scores["expert"].successes) == (0, 5)
  together = comparison.together([scores["random"], scores["expert"]])
  assert (together.successes, together.episodes, together.rate) == (5, 10, intervals.wilson(5, 10))
  line = json.loads((tmp_path / "episodes.jsonl").read_text().splitlines()[0])
  assert (line["model"], line["environment"]) == ("none", "count:odd")
  assert comparison.episode_seeds(3, env="libero:goal/1") == [0, 1, 2]  # the benchmark's own initial states
  assert comparison.entries("count:odd") == ["model", "blind", "random", "expert"]
  with pytest.raises(KairosError, match="no policy 'hidden' in count:odd; there are model, blind, random, expert"):
    compare(None, tmp_path, ("hidden",), env="count:odd")
  with pytest.raises(KairosError, match="policy 'blind' needs a model; without one there are random, expert"):
    compare(None, tmp_path, ("blind",), env="count:odd")


def test_moving_balls_have_cue_reachs_entries_and_episodes_of_their_own(model, tmp_path):
  compare(model, tmp_path / "at rest")
  assert speeds == {0.0}
  started.clear()
  speeds.clear()
  compare(model, tmp_path, env=comparison.MOVING)
  assert speeds == {generate.MOVING_SPEED} and started == comparison.episode_seeds(5, env=comparison.MOVING)
  assert comparison.entries(comparison.MOVING) == list(comparison.ENTRIES)
  assert json.loads((tmp_path / "episodes.jsonl").read_text().splitlines()[0])["environment"] == (
    "cue_reach:moving/visible"
  )
