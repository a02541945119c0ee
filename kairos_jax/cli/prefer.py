"""Lets a model's imagination learn what is preferred: rollouts, pairs, Flow-DPO, and what it did to the rest.

usage:
  kairos prefer --model=runs/demo --data=runs/demo/data/robot --score=arm --out=runs/preferred
  kairos prefer --model=runs/demo --data=runs/demo/data/robot --choices=choices.csv --out=runs/preferred

Every prompt, the beginning of an episode of CueReach, is rolled out --samples times. The best and the worst of them by
--score are a pair:

  arm      physics: where the arm was a frame ago, or near there, it still is
  balls    physics: the balls' pixels stay as many as they were
  truth    the simulator's own frames
  task     the arm comes near the ball that has the color of the bar
  quality  the picture is as sharp as what was seen

or people choose: where --choices is not there yet, OUT/films/index.html is a page that shows each prompt's rollouts and
saves what is chosen. The file has a line for each choice (columns prompt, winner, loser, counted from 0).

The table tells all scores, motion, sharpness and diversity on held-out prompts before and after, with the interval of
95 % of the difference. The scores that did not rank the pairs are what the loop never saw. The last line says how many
held-out pairs the model now tells as they were ranked. OUT/report.json holds all of it, OUT/train/model is the model.
The same line goes on with a run that was killed. The action tower stays as it is, and reads what the video tower makes
now: measure `kairos evaluate` again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from kairos_jax.cli import arguments

_SCORES = ["arm", "balls", "truth", "task", "quality"]


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags of `prefer`."""
  del argv
  flags.DEFINE_string("model", None, "folder of a run or of its model", flag_values=table)
  flags.DEFINE_string("data", None, "dataset that the model was trained on", flag_values=table)
  flags.DEFINE_string("out", None, "folder of the run", flag_values=table)
  flags.DEFINE_enum("score", "arm", _SCORES, "that ranks rollouts", flag_values=table)
  flags.DEFINE_string("choices", None, "CSV of people's choices, in the score's place", flag_values=table)
  flags.DEFINE_integer("prompts", 256, "to learn from", lower_bound=1, flag_values=table)
  flags.DEFINE_integer("held_out", 64, "prompts of the report", lower_bound=1, flag_values=table)
  flags.DEFINE_integer("samples", 4, "rollouts of each prompt", lower_bound=2, flag_values=table)
  flags.DEFINE_integer("steps", 200, "updates", lower_bound=1, flag_values=table)
  flags.DEFINE_float(
    "learning_rate", 7e-6, "peak; the winners' flow loss rises with it", lower_bound=0.0, flag_values=table
  )
  flags.DEFINE_float("beta", 100.0, "how strongly the model is held to what it was", lower_bound=0.0, flag_values=table)
  flags.DEFINE_integer("seed", 0, "of all that chance decides", lower_bound=0, flag_values=table)


def run(values: flags.FlagValues, positional: list[str]) -> None:
  """Runs what is left and prints the report.

  Raises:
    KairosError: a flag is missing, or see `preferences.prefer`.
  """
  arguments.flags_only("prefer", positional)
  arguments.need_folders(values, ("model", "data", "out"))
  import dataclasses

  from kairos_jax.evolution.preferences import Preferences, prefer, show

  given: dict[str, Any] = {field.name: values[field.name].value for field in dataclasses.fields(Preferences)}
  show(prefer(Preferences(**given), Path(values.out)))
