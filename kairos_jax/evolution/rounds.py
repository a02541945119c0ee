"""Rounds of acting, refining and judging; each begins with the best policy so far.

A round rolls the policy out on seeds of its own, keeps the episodes in the replay, refines a copy on them, and lets
both act on held-out seeds that no round rolls out. The copy takes the policy's place if it is not worse; else the round
is rolled back. What is done is on the disk: a run that was killed goes on where it was, and ends with the same model.

The only expert is in the demonstrations: an environment's script raises if it is asked.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from data_pipelines.engines.base import Engine
from data_pipelines.engines.pool import HERE
from kairos_jax import console, files, runtime, seeds
from kairos_jax.evaluation.comparison import CUE_REACH, compare
from kairos_jax.evaluation.record import EpisodeRecord
from kairos_jax.evolution import refine
from kairos_jax.evolution.refine import Method
from kairos_jax.evolution.rollouts import RollOut, roll_out
from kairos_jax.interop import saved_model
from kairos_jax.replay import Replay
from kairos_jax.runtime import WorldModel
from kairos_jax.training import claim_workdir, curriculum


@dataclasses.dataclass(frozen=True)
class Evolution:
  """What a run does.

  Attributes:
    model: folder of the policy that it begins with.
    demonstrations: a dataset that the policy was taught with.
    method: how it is refined.
    rounds: how many.
    episodes: that are rolled out in a round.
    steps: of a round's training.
    learning_rate: likewise.
    held_out: episodes of the judgment.
    env: the environment.
    seed: of all that chance decides.
  """

  model: str
  demonstrations: str
  method: Method
  rounds: int
  episodes: int = 200
  steps: int = 300
  learning_rate: float = 5e-4
  held_out: int = 100
  env: str = CUE_REACH
  seed: int = 0


def evolve(run: Evolution, workdir: Path, shared: Path | None = None, engine: Engine = HERE) -> Path:
  """Runs the rounds that are left; the folder of the best policy.

  Writes `round_N/` with the datasets, the training and `round.json`, and `report.json`.

  Args:
    run: what to do.
    workdir: folder of the run.
    shared: in which `replay/` and `evaluation.jsonl` lie, which runs of one base can share; None: the run's folder.
    engine: whose processes roll out, which changes no result.

  Raises:
    KairosError: the folder belongs to another run, or the model, the data or the environment are not there or do not go
      together.
  """
  with claim_workdir(workdir, dataclasses.asdict(run), frozenset({"rounds"})):
    best, told = base_of(run), list[dict[str, Any]]()
    record = EpisodeRecord((shared or workdir) / "evaluation.jsonl")
    for number in range(1, run.rounds + 1):
      home = workdir / f"round_{number}"
      done = home / "round.json"
      if not done.exists():
        files.write_json(done, _round(run, number, best, home, (shared or workdir) / "replay", record, engine))
        console.show(_told(json.loads(done.read_text())))
      one = json.loads(done.read_text())
      told.append(one)
      best = refined_in(home) if one["accepted"] else best
      files.write_json(workdir / "report.json", {**dataclasses.asdict(run), "rounds": told, "best": str(best)})
    return best


def base_of(run: Evolution) -> Path:
  """The folder of the model that the first round begins with."""
  folder = Path(run.model)
  return folder if (folder / "model.json").exists() else folder / "model"


def refined_in(home: Path) -> Path:
  """The folder of the model that a round made, in the round's folder."""
  return home / "train" / "model"


def _round(
  run: Evolution, number: int, best: Path, home: Path, replay: Path, record: EpisodeRecord, engine: Engine
) -> dict[str, Any]:
  model = runtime.load(best)
  name = saved_model.content_hash(model.saved)
  count = 0 if run.method == "demonstrations" else run.episodes
  named = [seeds.derive(run.seed, "evolution", number, episode) for episode in range(count)]
  roll_out(RollOut(best, name, run.env, len(named), replay), named, engine)
  episodes = [(clip, origin.success) for clip, origin in Replay(replay).episodes(name, run.env, named)]
  sets = refine.sort_out(episodes, run.method, seeds.derive(run.seed, "outcomes", number))
  counts = refine.write_datasets(home / "data", Path(run.demonstrations), sets)
  config = refine.training(
    best,
    model.saved,
    home / "data",
    counts,
    steps=run.steps,
    learning_rate=run.learning_rate,
    seed=seeds.derive(run.seed, "training", number) % 2**31,
  )
  refined = curriculum.run(config, home / "train")
  before, after = (_held_out(one, run, record) for one in (model, runtime.load(refined)))
  return {
    "round": number,
    "policy": name,
    "rolled_out": {"episodes": len(episodes), "successes": sum(success for _, success in episodes)},
    "trained_on": counts,
    "before": before,
    "after": after,
    "accepted": after >= before,
  }


def _told(one: dict[str, Any]) -> str:
  verdict, acted = "accepted" if one["accepted"] else "rolled back", one["rolled_out"]
  return (
    f"round {one['round']}: {acted['successes']} of {acted['episodes']} rollouts succeeded; held out "
    f"{one['before']:.3f} before and {one['after']:.3f} after: {verdict}"
  )


def _held_out(model: WorldModel, run: Evolution, record: EpisodeRecord) -> float:
  scores = compare(model, ["model"], episodes=run.held_out, record=record, env=run.env, seed=run.seed)
  return scores["model"].rate.value
