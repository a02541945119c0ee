"""Tells how likely an episode succeeds while it runs: a head on the video tower, learned from a policy's own rollouts.

usage:
  kairos value --model=runs/base --replay=runs/evolved/replay --out=runs/value
  kairos value --model=runs/base --replay=runs/evolved/replay --env=cue_reach:moving --out=runs/value

--model is the policy whose rollouts `kairos evolve` has kept in --replay. A linear head on the tower's outputs learns
their outcomes in five folds, and tells those of the fold that it was not fitted on. The table has its squared error
(Brier score) beside that of a clock, which knows how long an episode has lasted, and of the success rate; then the
error of its calibration: how far what it tells is from what comes. OUT/value.png shows both over time and by tenths,
OUT/report.json has the numbers. Needs scikit-learn, of the extra `notebook`.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from kairos_jax.cli import arguments
from kairos_jax.errors import KairosError


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags of `value`."""
  del argv
  flags.DEFINE_string("model", None, "folder of a run or of its model", flag_values=table)
  flags.DEFINE_string("replay", None, "folder of its rollouts", flag_values=table)
  flags.DEFINE_string("env", "cue_reach", "in which it acted, as in kairos evaluate", flag_values=table)
  flags.DEFINE_string("out", None, "folder to write to", flag_values=table)
  flags.DEFINE_integer("seed", 0, "of the folds", lower_bound=0, flag_values=table)


def run(values: flags.FlagValues, positional: list[str]) -> None:
  """Fits, judges, draws and prints.

  Raises:
    KairosError: a flag is missing, there are no rollouts of this model, or see `probing.value`.
  """
  arguments.flags_only("value", positional)
  arguments.need_folders(values, ("model", "replay", "out"))
  import numpy as np
  from matplotlib.figure import Figure

  from data_pipelines import embodiments
  from kairos_jax import console, files, probing, runtime
  from kairos_jax.interop import saved_model
  from kairos_jax.replay import Replay

  model, out = runtime.load(values.model), Path(values.out)
  name, size = saved_model.content_hash(model.saved), model.saved.frame_size
  videos, instructions, success = [], [], []
  for clip, origin in Replay(Path(values.replay)).episodes(name, values.env):
    videos.append(embodiments.picture(clip.embodiment, clip.cameras, size))
    instructions.append(clip.instruction)
    success.append(origin.success)
  if not videos:
    raise KairosError(f"{values.replay} holds no episode of {values.model} in {values.env}")
  with console.progress("watching", len(videos)) as bar:
    found = probing.value(
      model,
      videos,
      instructions,
      np.array(success),
      seed=values.seed,
      progress=lambda done: bar.update(done, "episodes"),
    )
  report = found.report()
  files.write_json(out / "report.json", report)
  figure = Figure(figsize=(9, 3.4), layout="constrained")
  over_time, calibration = figure.subplots(1, 2)
  found.plot_time(over_time)
  found.plot(calibration)
  with files.replaced(out / "value.png") as path:
    figure.savefig(path, dpi=140)
  console.show_table(["", "squared error"], [[kind, f"{error:.3f}"] for kind, error in report["brier"].items()])
  gain, low, high = report["gain"]
  console.show(
    f"below the clock by {gain:.3f} ({low:.3f} to {high:.3f}); what is told is {report['calibration_error']:.3f} from "
    f"what comes, over {report['episodes']} episodes of which {report['success']:.2f} succeed"
  )
  console.show(f"picture: {out / 'value.png'}")
