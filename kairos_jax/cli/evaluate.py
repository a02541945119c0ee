"""Drives the simulated robot with a trained model over unseen episodes, beside baselines.

usage:
  kairos evaluate --model=runs/cue_reach
  kairos evaluate --model=runs/cue_reach --policies=model,random,expert --episodes=200
  kairos evaluate --model=runs/cue_reach --seed=1 --out=runs/other_episodes
  kairos evaluate --model=runs/robots --env=metaworld
  kairos evaluate --env=fetch --policies=random,expert --out=runs/fetch

The task is to touch the ball that has the color of a bar. Policies:

  model    sees the bar's color all the time
  hidden   the model, which sees the color in the first four frames only: a test of its memory
  blind    the model on black images: what guessing gives
  random   uniform actions
  expert   a script that knows the answer
  held0, held8, held16, held32   hidden, and a brake holds the arm for so many frames after the color is gone

--env names another environment: cue_reach:moving, whose balls roll; or metaworld, fetch or libero, which are all tasks
of that robot, or some of them, such as metaworld:push, libero:spatial or libero:spatial/0 (docs/robots.md). These three
have the policies model, blind, random and expert; the last two need no --model.

Each line of the result is a rate, and the interval of 95 % (Wilson) that chance leaves around it:

  model    0.94  (0.88 to 0.97)  94 of 100

so two models whose intervals overlap need more episodes. The interval is over episodes of one trained model; runs of
another seed differ by more. The episodes are the same for every policy and every model, and --seed gives others.

A model drives the robot it was trained on. With --robot_data=FOLDER it drives the robot of that dataset, by its
statistics: what a model does on a robot before it is fine-tuned (docs/finetuning.md).

OUT/episodes.jsonl holds every finished episode, named by the model's hash, the policy, the environment and its seed;
OUT/rates.json holds what was printed. Interrupted, the same line goes on with the episodes that are missing, and says
so; more --episodes run only those that are new. To run all again, as after a change of the policy's code, delete the
file.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from kairos_jax.cli import arguments
from kairos_jax.errors import KairosError


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags."""
  del argv
  flags.DEFINE_string("model", None, "folder of a run or of its model", flag_values=table)
  environments = "environment: cue_reach[:moving], metaworld[:TASK], fetch, libero[:SUITE[/TASK]]"
  flags.DEFINE_string("env", "cue_reach", environments, flag_values=table)
  flags.DEFINE_integer("episodes", 100, "unseen episodes for each policy", lower_bound=1, flag_values=table)
  flags.DEFINE_string("policies", None, "which, separated by commas (default: all)", flag_values=table)
  flags.DEFINE_string("robot_data", None, "dataset of another robot to drive (default: the model's)", flag_values=table)
  flags.DEFINE_integer("seed", 0, "of the episodes", lower_bound=0, flag_values=table)
  flags.DEFINE_string("out", None, "folder to write to (default MODEL/evaluation)", flag_values=table)


def run(values: flags.FlagValues, positional: list[str]) -> None:
  """Prints a rate for each policy.

  Raises:
    KairosError: a flag is missing or unknown, or there is no such model, or it cannot act.
  """
  if positional or (values.model is None and (values.out is None or values.policies is None)):
    raise KairosError(
      "evaluate takes flags only, and needs --model=FOLDER, or --policies=random,expert and --out=FOLDER"
    )
  from data_pipelines.normalize import make_normalizers
  from data_pipelines.simulate.environments import named
  from data_pipelines.source import ArrayRecordSource
  from kairos_jax import console, files, runtime
  from kairos_jax.evaluation import comparison
  from kairos_jax.evaluation.record import EpisodeRecord

  known = [*comparison.ENTRIES, *comparison.HELD]
  names = [name.strip() for name in values.policies.split(",")] if values.policies else comparison.entries(values.env)
  if unknown := [name for name in names if name not in known]:
    raise KairosError(
      f"no policy {unknown[0]!r}{arguments.did_you_mean(unknown[0], known)}; there are {','.join(known)}"
    )
  environments = [values.env] if values.env in comparison.BALL_SPEEDS else named(values.env)
  model = None if values.model is None else runtime.load(values.model)
  if model is not None and values.robot_data:
    normalizers = make_normalizers({"robot": ArrayRecordSource(values.robot_data)})
    model = runtime.WorldModel(dataclasses.replace(model.saved, embodiments=normalizers))
  out = Path(values.out or Path(values.model, "evaluation"))
  record = EpisodeRecord(out / "episodes.jsonl")
  scores = {}
  for env in environments:
    scores[env] = comparison.compare(model, names, env=env, episodes=values.episodes, record=record, seed=values.seed)
  if len(environments) > 1:
    scores["all"] = {name: comparison.together([one[name] for one in scores.values()]) for name in names}
  labeled = {
    name if len(scores) == 1 else f"{env} {name}": score for env, one in scores.items() for name, score in one.items()
  }
  width = max(8, *map(len, labeled))
  for label, score in labeled.items():
    rate, low, high = score.rate
    console.show(f"{label:{width}} {rate:.2f}  ({low:.2f} to {high:.2f})  {score.successes} of {score.episodes}")
  rates = {label: score.rate for label, score in labeled.items()}
  report = {
    "episodes": values.episodes,
    "seed": values.seed,
    "success": {name: rate.value for name, rate in rates.items()},
    "interval": {name: [rate.low, rate.high] for name, rate in rates.items()},
  }
  files.write_json(out / "rates.json", report)
  console.show(f"written to {out}")
