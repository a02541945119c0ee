"""Trains and evaluates a grid of towers on a task of memory, and shows success against the delay.

usage:
  kairos ablate --config=experiments/memory.py [--out=runs/memory] [--variants=swa,paper] [--seeds=3] [--resume]
  kairos ablate --config=experiments/memory.py --cell=2/4 --resume   the second of four hosts, which share a folder

Every cell, one tower from one seed, has a folder in OUT with its run, its model and, when it is finished, its row.json.
Interrupted, --resume goes on with the cells that are missing. After each call OUT holds, of all cells that are finished
by then, results.json, success.png, theorem_1.png and report.html, and a table is printed.

Variants, delays and episodes are in the config's key ablation. All cells train for as many steps; the table says how
many parameters each has, and how many frames of delay its actions can reach back over by the shape of the tower.
"""

import re
from collections.abc import Sequence

from absl import flags

from kairos_jax.cli import arguments
from kairos_jax.errors import KairosError


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the experiment's config and what is run of its grid."""
  arguments.define_config(table, argv)
  flags.DEFINE_string("out", "runs/memory", "folder of the grid", flag_values=table)
  flags.DEFINE_string("variants", None, "which, separated by commas (default: all)", flag_values=table)
  flags.DEFINE_integer("seeds", 3, "of each variant", lower_bound=1, flag_values=table)
  flags.DEFINE_boolean("resume", False, "go on where cells are finished already", flag_values=table)
  flags.DEFINE_string("cell", "1/1", "N/M: the N-th of M hosts takes every M-th cell", flag_values=table)


def run(values: flags.FlagValues, positional: list[str]) -> None:
  """Runs the cells and draws all that are finished.

  Raises:
    KairosError: a flag is missing or not allowed, or see `ablation.run`.
  """
  if positional or values.config is None:
    raise KairosError("ablate needs --config=FILE.py and takes flags only")
  if not (part := re.fullmatch(r"(\d+)/(\d+)", values.cell)):
    raise KairosError(f"flag --cell={values.cell}: N/M is allowed, as in 2/4")
  from data_pipelines.simulate import delayed_cue_reach
  from kairos_jax import console
  from kairos_jax.demo import memory_report
  from kairos_jax.evaluation import ablation
  from kairos_jax.probing import forgetting

  names = [name.strip() for name in values.variants.split(",")] if values.variants else None
  grid = ablation.parse(values.config, names)
  chosen = ablation.cells(grid, values.seeds, (int(part[1]), int(part[2])))

  def beside(model):
    return forgetting.row(model, grid.delays, grid.task)

  ablation.run(grid, chosen, values.out, resume=values.resume, beside=beside)
  header, lines = memory_report.write(ablation.read_all(values.out), grid.task.colors, values.out)
  console.show_table(header, lines)
  known = ", ".join(f"{name} {share:g}" for name, share in delayed_cue_reach.floors(grid.task.colors).items())
  console.show(f"floors of policies that do not know the color, in closed form: {known}; the expert: 1")
  console.show(f"report: {values.out}/report.html")
