"""Merges saved models and adapters of one shape into a saved model, one matrix of one layer after the other.

No more is in memory than that matrix in each of the models, in float64, and what its rule makes of it. An adapter is
the base with its product added. The codec is no model's own: latents of another mean nothing, so all must have the
same.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from kairos_jax import shards
from kairos_jax.errors import KairosError
from kairos_jax.interop import adapters as adapters_lib
from kairos_jax.interop import saved_model
from kairos_jax.interop.merge_rules import FROM_BASE, Rule
from kairos_jax.interop.orbax_weights import Arrays
from kairos_jax.interop.saved_model import SavedModel
from kairos_jax.interop.stream_writer import Journal, Slot, StreamWriter, partial_of
from kairos_jax.model import lora

JOURNAL = "merge.journal"
# Of a description.
_SAME = ("codec", "encoder", "video_fps", "action_horizon", "max_delay", "video_times", "action_times")


class Tensors(NamedTuple):
  """A model's tensors by name, a layer's at a time, read when they are asked for."""

  where: Path
  weights: shards.Tensors | Arrays
  added: Mapping[str, tuple[np.ndarray, np.ndarray]] = {}

  def piece(self, name: str, row: int | None) -> np.ndarray:
    """The tensor, or an entry of its first axis, with an adapter's product added where there is one."""
    values = self.weights[name] if row is None else self.weights.row(name, row)
    if name not in self.added:
      return values
    down, up = (x if row is None else x[row] for x in self.added[name])
    return np.asarray(values, np.float32) + np.matmul(down, up)


class Merged(NamedTuple):
  """What was written: tensors of layers, and how many of them an earlier run had done."""

  tensors: int
  resumed: int


def merge(
  models: Sequence[Path],
  rule: Rule,
  out: Path,
  *,
  base: Path | None = None,
  on_piece: Callable[[int], None] = lambda size: None,
) -> Merged:
  """Writes the merged model, in the types of the base's weights or of the first model's; goes on where it was killed.

  Args:
    models: folders of saved models or of their runs, or files of adapters for the base.
    rule: how they become one.
    out: a folder.
    base: what all of them were trained from.
    on_piece: hears how many bytes were written.

  Raises:
    KairosError: fewer than two models, no base where one is read, or models that differ in more than their weights.
  """
  if len(models) < 2:
    raise KairosError(f"{len(models)} model to merge; allowed: two or more")
  if rule.weights and len(rule.weights) != len(models):
    raise KairosError(f"weights are {list(rule.weights)}; allowed: one for each of the {len(models)} models")
  if base is None and (rule.method in FROM_BASE or any(path.suffix == ".safetensors" for path in models)):
    raise KairosError(f"base is missing: {rule.method} and adapters need the model that was trained further")
  start = None if base is None else _open(base)
  opened = [_adapted(start, path) if path.suffix == ".safetensors" else _open(path) for path in models]  # type: ignore[arg-type]
  first = start or opened[0]
  robots: dict[str, Any] = {}
  for other in [first, *opened]:
    _check(first, other)
    for name, robot in other.saved.embodiments.items():
      if name in robots and robots[name].to_json() != robot.to_json():
        raise KairosError(f"{other.tensors.where}: {name} has other units than in the models before; allowed: the same")
      robots[name] = robot

  found = first.tensors.weights.found
  slots = {name: Slot(found[name].dtype, found[name].shape) for name in found}
  sources = [_identity(x.tensors) for x in [first, *opened]]
  plan = json.dumps([dataclasses.asdict(rule), sources, [str(path) for path in models]])
  out.mkdir(parents=True, exist_ok=True)
  file = out / saved_model.FILES[1]
  journal = Journal(out / JOURNAL, hashlib.sha256(plan.encode()).hexdigest())
  writer = StreamWriter(file, slots, journal.resume(partial_of(file)))
  journal.begin()
  resumed, count = len(journal.done), 0
  for name, row in pieces(slots):
    count += 1
    key = name if row is None else f"{name}#{row}"
    if key in journal.done:
      continue
    parts = [x.tensors.piece(name, row) for x in opened]
    old = None if start is None else start.tensors.piece(name, row)
    if name.startswith("codec/"):
      if any(not np.array_equal(parts[0], part) for part in [*parts, *([] if old is None else [old])]):
        raise KairosError(f"{name} differs between the models: each has a codec of its own, so their latents differ")
      values = parts[0]
    else:
      values = rule.merge(key, parts, old)
    values = np.asarray(values, slots[name].dtype)
    writer.write(name, values, row)
    journal.add(key, {}, values.nbytes, writer)
    on_piece(values.nbytes)
  journal.flush(writer)
  writer.finish()
  saved_model.describe(out, dataclasses.replace(first.saved, embodiments=robots), first.bridge_hash)
  journal.remove()
  return Merged(count, resumed)


def pieces(slots: Mapping[str, Slot]) -> Iterator[tuple[str, int | None]]:
  """What is merged at once: the tensors of the towers' layers, which lie stacked, one by one, and all others whole."""
  for name, slot in slots.items():
    if name.split("/")[1:2] == ["groups"]:
      yield from ((name, row) for row in range(slot.shape[0]))
    else:
      yield name, None


def size(model: Path) -> int:
  """Bytes of a model's weights."""
  found = _open(model).tensors.weights.found
  return sum(x.dtype.itemsize * math.prod(x.shape) for x in found.values())


def load_params(model: Path, base: Path | None) -> dict[str, Any]:
  """The parameters of a model, or of the base with a file of adapters."""
  if model.suffix != ".safetensors":
    return saved_model.load(model).params
  assert base is not None  # `merge` has checked
  saved = saved_model.load(base)
  adapters, scale = adapters_lib.load(model, saved.model_config, saved.params)
  return lora.merge(saved.params, adapters, scale)


class _Opened(NamedTuple):
  saved: SavedModel
  bridge_hash: str | None
  tensors: Tensors


def _open(path: Path) -> _Opened:
  folder, saved, bridge_hash = saved_model.outline(path)
  if saved.low_bit is not None:
    raise KairosError(f"{folder} is in {saved.low_bit.kind}; allowed: models that are kept whole")
  _, weights = saved_model.stored_weights(folder)
  return _Opened(saved, bridge_hash, Tensors(folder, weights))


def _adapted(base: _Opened, path: Path) -> _Opened:
  """The base with adapters."""
  found = base.tensors.weights.found
  shapes = unflatten_dict(
    {tuple(name.split("/")): jax.ShapeDtypeStruct(found[name].shape, found[name].dtype) for name in found}
  )
  adapters, scale = adapters_lib.load(path, base.saved.model_config, shapes)
  flat = flatten_dict(adapters, sep="/")
  stems = (name.removesuffix("/down") for name in flat if name.endswith("/down"))
  added = {f"{stem}/kernel": (flat[f"{stem}/down"], scale * flat[f"{stem}/up"]) for stem in stems}
  return base._replace(tensors=Tensors(path, base.tensors.weights, added))


def _check(first: _Opened, other: _Opened) -> None:
  """KairosError unless both are of one shape."""
  where = f"{other.tensors.where} does not go with {first.tensors.where}"
  for name in _SAME:
    ours, theirs = (getattr(x.saved, name) for x in (first, other))
    if ours != theirs:
      raise KairosError(f"{where}: {name} is {theirs} there and {ours} here")
  if first.bridge_hash != other.bridge_hash:
    raise KairosError(f"{where}: their bridges have other weights, and are kept outside of the models")
  ours, theirs = ({name: x.shape for name, x in opened.tensors.weights.found.items()} for opened in (first, other))
  for name in sorted(ours.keys() | theirs.keys()):
    if ours.get(name) != theirs.get(name):
      raise KairosError(f"{where}: {name} is {theirs.get(name, 'absent')} there and {ours.get(name, 'absent')} here")


def _identity(tensors: Tensors) -> list[Any]:
  """Changes when the files are others."""
  path = tensors.where if tensors.where.is_file() else tensors.where / saved_model.FILES[1]
  if not path.exists():
    path = tensors.where / "model.json"
  state = path.stat()
  return [str(path.absolute()), state.st_size, state.st_mtime_ns]
