"""What a run starts from: another run's stage, a saved model, or a released file; and what was taken of it.

Every tensor of the model is taken, where the start has one of its name, or is new; what the start has beyond the model
is left. A tensor of another shape is an error, for it would be a model of another kind.
"""

import dataclasses
import fnmatch
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
from flax.traverse_util import flatten_dict, unflatten_dict
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from kairos_jax import files
from kairos_jax.errors import KairosError
from kairos_jax.interop import reference_names, saved_model
from kairos_jax.model import WorldActionConfig
from kairos_jax.training.checkpoint import load_params

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
  """Of the tensors under one name, how many were treated alike, and how many numbers they hold."""

  name: str
  what: Literal["taken", "grown", "new", "left"]
  tensors: int
  numbers: int


def load_all(paths: str, towers: WorldActionConfig) -> Params:
  """The parameters of several starts, separated by commas: the first that has a part gives it. See `load`."""
  params: Params = {}
  for path in paths.split(","):
    params = {**load(path.strip(), towers), **params}
  return params


def without(start: Params, patterns: Sequence[str]) -> Params:
  """The start without the parameters that these patterns match, which are then new in the model.

  Raises:
    KairosError: a pattern matches nothing.
  """
  flat = flatten_dict(start, sep="/")
  for pattern in patterns:
    if not fnmatch.filter(flat, pattern):
      raise KairosError(f"config key init_new: {pattern!r} matches nothing that init_from has")
  kept = {name: x for name, x in flat.items() if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}
  return unflatten_dict(kept, sep="/")


def load(path: str | Path, towers: WorldActionConfig) -> Params:
  """The parameters that lie at `path`, by part.

  Args:
    path: a run's stage or the `best` of one (its averages, with the codec of its run), a saved model, or a released
      safetensors file or folder.
    towers: the model, by whose names a released file is read; without an action tower where the file has none.

  Raises:
    KairosError: there is none of these, or it cannot be read.
  """
  path = Path(path)
  if (path / "model.json").exists() or (path / "model" / "model.json").exists():
    saved = saved_model.load(path)
    if saved.low_bit is not None:
      raise KairosError(f"config key init_from: {path} is in {saved.low_bit.kind}, which cannot be trained further")
    return saved.params
  stage, checkpoints = (path.parent, path) if path.name == "best" else (path, path / "checkpoints")
  if checkpoints.is_dir() or path.name == "best":
    params = load_params(checkpoints)
    if (codec := stage.parent / "codec.safetensors").exists():
      params["codec"] = unflatten_dict(files.read_safetensors(codec), sep="/")
    return params
  if path.suffix == ".safetensors" or any(path.glob("*.safetensors")):
    if towers.action and not _has_actions(path):
      towers = dataclasses.replace(towers, action=None)
    return reference_names.load_safetensors(path, towers)
  allowed = "a run's stage, a saved model, or a released safetensors file or folder"
  raise KairosError(f"config key init_from is {str(path)!r}; allowed: {allowed}")


def take(fresh: Params, start: Params, where: str, grown: Sequence[str] = ()) -> tuple[Params, list[Row]]:
  """The model's parameters, from `start` as far as it has them.

  Args:
    fresh: those of the model, new.
    start: from `load`.
    where: names the start in an error.
    grown: parts of `fresh` that were not drawn at random but made from the start's.

  Returns:
    As `fresh`, and a row for each name of two levels, in the order of the model.

  Raises:
    KairosError: a tensor's shape differs.
  """
  ours, theirs = flatten_dict(fresh, sep="/"), flatten_dict(start, sep="/")
  what: Any
  taken: dict[str, Any] = {}
  counts: dict[tuple[str, Any], list[int]] = {}
  for name, value in {**ours, **theirs}.items():
    if name in ours and name in theirs:
      if ours[name].shape != theirs[name].shape:
        differ = f"{name} is {theirs[name].shape} there and {ours[name].shape} here"
        raise KairosError(f"init_from {where}: {differ}; config key init_new names what is to be made anew")
      what, taken[name] = "taken", np.asarray(theirs[name], ours[name].dtype)
    elif name in ours:
      what, taken[name] = ("grown" if name.split("/")[0] in grown else "new"), value
    else:
      what = "left"
    counts.setdefault(("/".join(name.split("/")[:2]), what), []).append(value.size)
  rows = [Row(name, kind, len(sizes), sum(sizes)) for (name, kind), sizes in counts.items()]
  return unflatten_dict(taken, sep="/"), rows


def table(rows: Sequence[Row], where: str) -> str:
  """The rows as a table, to be printed."""
  printed = Table(title=f"from {where}", title_justify="left", box=SIMPLE)
  for heading, justify in (("parameters", "left"), ("", "left"), ("tensors", "right"), ("numbers", "right")):
    printed.add_column(heading, justify=justify)  # type: ignore[arg-type]
  for row in rows:
    printed.add_row(row.name, row.what, str(row.tensors), f"{row.numbers:,}")
  console = Console(file=io.StringIO(), width=100)
  console.print(printed)
  return console.file.getvalue().rstrip()  # type: ignore[attr-defined]


def _has_actions(path: Path) -> bool:
  """Whether a released file, or one of a folder's, names a tensor of an action tower."""
  for file in [path] if path.is_file() else path.glob("*.safetensors"):
    try:
      with safetensors.safe_open(file, framework="numpy") as tensors:
        if any("action_dit." in name for name in tensors.keys()):
          return True
    except (OSError, safetensors.SafetensorError) as error:
      raise KairosError(f"{file} is not a readable safetensors file: {error}") from error
  return False
