"""A grid of towers and seeds on DelayedCueReach: each cell trains one and measures it; finished cells are kept."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from data_pipelines.simulate.generate import build
from kairos_jax import console
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import cells, delayed
from kairos_jax.evaluation.cells import Cell, Row
from kairos_jax.runtime import WorldModel, load
from kairos_jax.training import curriculum

PARTS = ("video", "action", "train")  # of the config, in which a variant may differ


@dataclasses.dataclass(frozen=True)
class Grid:
  """What the key `ablation` of a config holds, and the config that all cells share.

  Attributes:
    base: a training config, see `curriculum.run`.
    variants: by name, what differs in each of PARTS.
    clips, size: training clips and the side of their pictures, pixels.
    task: of training and evaluation.
    delays: frames.
    episodes: for each delay.
  """

  base: ConfigDict
  variants: Mapping[str, Mapping[str, Mapping[str, Any]]]
  clips: int
  size: int
  task: delayed.Task
  delays: tuple[int, ...]
  episodes: int

  def config(self, cell: Cell) -> ConfigDict:
    """The training config of a cell."""
    config = self.base.copy_and_resolve_references()
    config.seed = cell.seed
    parts = dict(zip(PARTS, (config.model.video, config.model.action, config.train), strict=True))
    for part, values in self.variants[cell.variant].items():
      parts[part].update(values)
    return config


def parse(config: ConfigDict, variants: Sequence[str] | None = None) -> Grid:
  """The grid of an experiment, with all its variants or some.

  Raises:
    KairosError: the config has no grid, its grid lacks a key or has one too many, or a variant is not in it.
  """
  base = config.copy_and_resolve_references()
  options = base.to_dict().get("ablation")
  if options is None:
    raise KairosError("this config has no key ablation; experiments/memory.py has one")
  with base.unlocked():
    del base.ablation
  if keys := set(options) ^ {"variants", "clips", "size", "colors", "distract", "swap", "delays", "episodes"}:
    raise KairosError(f"config key ablation: {', '.join(sorted(keys))} missing or unknown")
  every = options["variants"]
  names = list(every) if variants is None else list(variants)
  if unknown := [name for name in names if name not in every]:
    raise KairosError(f"no variant {unknown[0]!r}; there are {', '.join(every)}")
  return Grid(
    base=base,
    variants={name: every[name] for name in names},
    clips=options["clips"],
    size=options["size"],
    task=delayed.Task(options["colors"], options["distract"], options["swap"]),
    delays=tuple(options["delays"]),
    episodes=options["episodes"],
  )


def run(
  grid: Grid,
  chosen: Sequence[Cell],
  out: str | Path,
  *,
  resume: bool,
  beside: Callable[[WorldModel], Row] = lambda model: {},
) -> list[Row]:
  """Trains and measures the cells that are not finished, one after the other, and writes a row for each.

  Args:
    grid, chosen: what to run.
    out: folder; each cell has its own, with its row in row.json.
    resume: goes on where rows are there already; else they are refused.
    beside: what else is measured on each model, into its row.

  Raises:
    KairosError: there are rows and no `resume`, a row is of another config, or as `curriculum.run`.
  """
  out = Path(out)
  missing = cells.unfinished(chosen, out, lambda cell: _fingerprint(grid, cell), resume=resume)
  if missing:
    sources = grid.base.data.sources
    folder = Path(grid.base.data.folder)
    with console.progress("data", total=grid.clips * len(sources)) as bar:
      build(folder, dict.fromkeys(sources, grid.clips), grid.base.seed, grid.size, processes=1, progress=bar.update)
  for number, cell in enumerate(missing):
    logging.info("cell %d of %d: %s", number + 1, len(missing), cell.name)
    row = _run_cell(grid, cell, out / cell.name, beside)
    cells.keep(out, cell, row)
    rates = " ".join(f"{delay}:{good / row['episodes']:.2f}" for delay, good in row["successes"].items())
    console.show(f"{cell.name}: success by delay {rates}")
  return [read(out / cell.name) for cell in chosen]


def read(folder: Path) -> Row:
  """A finished cell's row."""
  row = cells.read(folder)
  row["successes"] = {int(delay): good for delay, good in row["successes"].items()}
  return row


def read_all(out: str | Path) -> list[Row]:
  """The rows of all finished cells below a folder, whoever ran them."""
  return [read(path.parent) for path in sorted(Path(out).glob("*/row.json"))]


def _run_cell(grid: Grid, cell: Cell, folder: Path, beside: Callable[[WorldModel], Row]) -> Row:
  begin = time.monotonic(), time.process_time()
  model = load(curriculum.run(grid.config(cell), folder))
  trained = time.monotonic(), time.process_time()
  # Each seed acts in scenes of its own.
  rates = delayed.success(model, grid.delays, grid.episodes, grid.task, seed=cell.seed)
  return {
    "variant": cell.variant,
    "seed": cell.seed,
    "config": _fingerprint(grid, cell),
    "steps": grid.config(cell).train.steps,
    "parameters": {name: sum(x.size for x in jax.tree.leaves(model.params[name])) for name in ("video", "action")},
    "episodes": grid.episodes,
    "successes": {delay: round(rate.value * grid.episodes) for delay, rate in rates.items()},
    "minutes": {"training": (trained[0] - begin[0]) / 60, "all": (time.monotonic() - begin[0]) / 60},
    "cpu_minutes": {"training": (trained[1] - begin[1]) / 60, "all": (time.process_time() - begin[1]) / 60},
    **beside(model),
  }


def _fingerprint(grid: Grid, cell: Cell) -> str:
  """Of all that decides a row's numbers."""
  config = grid.config(cell).to_dict()
  del config["data"]["folder"]
  return cells.hashed([config, grid.clips, grid.size, dataclasses.asdict(grid.task), grid.delays, grid.episodes])
