"""Lets a policy get better by acting: roll out, keep what happened, refine, judge on seeds that were never rolled out.

usage:
  kairos evolve --model=runs/base --demonstrations=runs/data/robot --method=filtered --rounds=2 --out=runs/evolved
  kairos evolve --model=runs/base --demonstrations=runs/data/robot --method=nft --rounds=2 --out=runs/nft

Methods; only the action tower trains, for --steps updates in each:

  filtered        demonstrations and the policy's own successes, half each
  nft             demonstrations and all of its episodes, half each, by DiffusionNFT
  demonstrations  demonstrations alone: a control
  placebo         as filtered, with outcomes dealt out anew among the episodes: a control

A round that makes the policy worse on the held-out episodes is rolled back. The best policy's folder is printed, and
OUT/report.json has every round. OUT/round_N/changed.mp4 shows held-out episodes that a round newly solved or lost,
before and after it. OUT/replay holds every finished episode, never changed, with the hash of the model that acted. The
same line goes on with a run that was killed; more --rounds go on with a finished one. Rollouts take --processes of this
machine, or of a Ray cluster with --engine=ray and the extra `ray`; each loads the model, and the results are the same.

The base should succeed in 0.4 to 0.7 of its episodes: of one that hardly fails there is little to learn, and the
successes of one that guesses are chance.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from kairos_jax.cli import arguments, engine

_METHODS = ["filtered", "nft", "demonstrations", "placebo"]


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags of `evolve`."""
  del argv
  flags.DEFINE_string("model", None, "folder of a run or of its model", flag_values=table)
  flags.DEFINE_string("demonstrations", None, "dataset that the model was taught with", flag_values=table)
  flags.DEFINE_string("out", None, "folder of the run", flag_values=table)
  flags.DEFINE_enum("method", "filtered", _METHODS, "how the policy is refined", flag_values=table)
  flags.DEFINE_string("env", "cue_reach", "environment, as in kairos evaluate", flag_values=table)
  flags.DEFINE_integer("rounds", 1, "how many", lower_bound=1, flag_values=table)
  flags.DEFINE_integer("episodes", 200, "rolled out in a round", lower_bound=1, flag_values=table)
  flags.DEFINE_integer("steps", 300, "updates of a round's training", lower_bound=1, flag_values=table)
  flags.DEFINE_float("learning_rate", 5e-4, "peak, of a round's training", lower_bound=0.0, flag_values=table)
  flags.DEFINE_integer("held_out", 100, "episodes that judge a round", lower_bound=1, flag_values=table)
  flags.DEFINE_integer("seed", 0, "of all that chance decides", lower_bound=0, flag_values=table)
  engine.define_flags(table, "processes that roll out", processes=1)


def run(values: flags.FlagValues, positional: list[str]) -> None:
  """Runs the rounds.

  Raises:
    KairosError: a flag is missing, or see `rounds.evolve`.
  """
  arguments.flags_only("evolve", positional)
  arguments.need_folders(values, ("model", "demonstrations", "out"))
  import dataclasses
  import json

  from data_pipelines.simulate.environments import ENVIRONMENTS
  from kairos_jax import console
  from kairos_jax.cli.operations import known
  from kairos_jax.evaluation.comparison import BALL_SPEEDS
  from kairos_jax.evolution import films
  from kairos_jax.evolution.rounds import Evolution, evolve

  known("environment", values.env, [*BALL_SPEEDS, *ENVIRONMENTS])
  given: dict[str, Any] = {field.name: values[field.name].value for field in dataclasses.fields(Evolution)}
  run, out = Evolution(**given), Path(values.out)
  best = evolve(run, out, engine=engine.of(values))
  for film in films.write(run, out, json.loads((out / "report.json").read_text())["rounds"]):
    console.show(f"what the round changed: {film}")
  console.show(f"best policy: {best}")
