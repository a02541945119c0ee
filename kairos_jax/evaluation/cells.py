"""A grid of variants and seeds: its cells run one after the other, and each finished one is a row in its own folder."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kairos_jax import files
from kairos_jax.errors import KairosError

Row = dict[str, Any]


class Cell(NamedTuple):
  """One variant, from one seed."""

  variant: str
  seed: int

  @property
  def name(self) -> str:
    """Of its folder."""
    return f"{self.variant}-{self.seed}"


def share(variants: Iterable[str], seeds: int, part: tuple[int, int] = (1, 1)) -> list[Cell]:
  """The cells of one of several hosts, all variants of a seed before the next seed.

  Args:
    variants: by name.
    seeds: of each.
    part: (N, M): the N-th of M hosts, counted from 1, takes every M-th cell.

  Raises:
    KairosError: no seeds, or no such part.
  """
  number, count = part
  if seeds < 1 or not 1 <= number <= count:
    raise KairosError(f"seeds is {seeds} and cell {number}/{count}; allowed: 1 seed or more, and 1/M to M/M")
  every = [Cell(variant, seed) for seed in range(seeds) for variant in variants]
  return every[number - 1 :: count]


def unfinished(chosen: Sequence[Cell], out: Path, fingerprint: Callable[[Cell], str], *, resume: bool) -> list[Cell]:
  """The cells that have no row yet.

  Args:
    chosen: to look at.
    out: folder of the grid.
    fingerprint: of what decides a cell's numbers, which its row holds as "config".
    resume: goes on where rows are there already; else they are refused.

  Raises:
    KairosError: there are rows and no `resume`, or a row is of another config.
  """
  there = [cell for cell in chosen if (out / cell.name / "row.json").exists()]
  if there and not resume:
    names = ", ".join(cell.name for cell in there)
    raise KairosError(f"{out} holds finished cells ({names}); --resume goes on with the others")
  for cell in there:
    if read(out / cell.name)["config"] != fingerprint(cell):
      raise KairosError(f"{out / cell.name} holds a cell of another config; give another --out, or delete it")
  return [cell for cell in chosen if cell not in there]


def keep(out: Path, cell: Cell, row: Row) -> None:
  """Writes a finished cell's row."""
  files.write_json(out / cell.name / "row.json", row)


def read(folder: Path) -> Row:
  """A finished cell's row."""
  return json.loads((folder / "row.json").read_text())


def read_all(out: str | Path) -> list[Row]:
  """The rows of all finished cells below a folder, whoever ran them."""
  return [read(path.parent) for path in sorted(Path(out).glob("*/row.json"))]


def hashed(what: Any) -> str:
  """A fingerprint of plain values."""
  return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
