"""Runs a grid of variants and seeds, and compares them: towers on a task of memory, or ways of getting better.

usage:
  kairos ablate --config=experiments/memory.py [--out=runs/memory] [--variants=swa,paper] [--seeds=3] [--resume]
  kairos ablate --config=experiments/memory.py --cell=2/4 --resume   the second of four hosts, which share a folder
  kairos ablate --config=experiments/evolve.py --out=runs/evolution/grid --resume

Every cell, one variant from one seed, has a folder in OUT with its run, its model and, once it is finished, row.json.
Interrupted, --resume goes on with the cells that are missing. After each call a table is printed, of all cells that are
finished by then.

With the key ablation the config has towers: variants, delays and episodes. OUT holds results.json, success.png,
theorem_1.png and report.html. All cells train for as many steps; the table says how many parameters each has, and how
many frames of delay its actions can reach back over by the shape of the tower.

With the key evolution it has ways of getting better, see `kairos evolve`, and the arm that should win. The variants are
base, demonstrations, filtered, nft and placebo. OUT holds results.json, curves.png and what all cells share: the replay
and the judged episodes. The last line says whether the arm has won.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from kairos_jax.cli import arguments
from kairos_jax.errors import KairosError


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the experiment's config and what is run of its grid."""
  arguments.define_config(table, argv)
  flags.DEFINE_string("out", None, "folder of the grid (default: runs/memory, runs/evolution/grid)", flag_values=table)
  flags.DEFINE_string("variants", None, "which, separated by commas (default: all)", flag_values=table)
  flags.DEFINE_integer("seeds", None, "of each variant (default: 3, or the config's)", lower_bound=1, flag_values=table)
  flags.DEFINE_boolean("resume", False, "go on where cells are finished already", flag_values=table)
  flags.DEFINE_string("cell", "1/1", "N/M: the N-th of M hosts takes every M-th cell", flag_values=table)


def run(values: flags.FlagValues, positional: list[str]) -> None:
  """Runs the cells and draws all that are finished.

  Raises:
    KairosError: a flag is missing or not allowed, or see `ablation.run` and `arms.run`.
  """
  if positional or values.config is None:
    raise KairosError("ablate needs --config=FILE.py and takes flags only")
  if not (part := re.fullmatch(r"(\d+)/(\d+)", values.cell)):
    raise KairosError(f"flag --cell={values.cell}: N/M is allowed, as in 2/4")
  names = [name.strip() for name in values.variants.split(",")] if values.variants else None
  (_arms if "evolution" in values.config else _towers)(values, names, (int(part[1]), int(part[2])))


def _towers(values: flags.FlagValues, names: list[str] | None, part: tuple[int, int]) -> None:
  from data_pipelines.simulate import delayed_cue_reach
  from kairos_jax import console
  from kairos_jax.demo import memory_report
  from kairos_jax.evaluation import ablation, cells
  from kairos_jax.probing import forgetting

  grid, out = ablation.parse(values.config, names), values.out or "runs/memory"
  chosen = cells.share(grid.variants, values.seeds or 3, part)

  def beside(model):
    return forgetting.row(model, grid.delays, grid.task)

  ablation.run(grid, chosen, out, resume=values.resume, beside=beside)
  header, lines = memory_report.write(ablation.read_all(out), grid.task.colors, out)
  console.show_table(header, lines)
  known = ", ".join(f"{name} {share:g}" for name, share in delayed_cue_reach.floors(grid.task.colors).items())
  console.show(f"floors of policies that do not know the color, in closed form: {known}; the expert: 1")
  console.show(f"report: {out}/report.html")


def _arms(values: flags.FlagValues, names: list[str] | None, part: tuple[int, int]) -> None:
  from kairos_jax import console
  from kairos_jax.cli.operations import known
  from kairos_jax.demo import evolution_report
  from kairos_jax.evaluation import cells
  from kairos_jax.evolution import arms

  experiment, out = arms.parse_experiment(values.config), Path(values.out or "runs/evolution/grid")
  variants = [known("variant", name, arms.ARMS) for name in names or arms.ARMS]
  arms.run(experiment, cells.share(variants, values.seeds or experiment.seeds, part), out, resume=values.resume)
  rows = cells.read_all(out)
  verdict = arms.judge(experiment, rows)
  header, lines = evolution_report.write(rows, arms.ARMS, verdict and verdict._asdict(), out)
  console.show_table(header, lines)
  console.show(arms.told(experiment, verdict))
