"""Official files to a saved model of ours and back, tensor by tensor: none is in memory beside the one at work.

What is done is noted in a journal, so that a conversion that was killed goes on where it was. The report, convert.json,
has the SHA-256 of every official tensor; on the way back it is held against what is written.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from kairos_jax import files as files_lib
from kairos_jax import shards
from kairos_jax.errors import KairosError
from kairos_jax.interop import codec_weights, orbax_weights, saved_model
from kairos_jax.interop.orbax_weights import Arrays, OrbaxWriter
from kairos_jax.interop.reference_names import modern_name
from kairos_jax.interop.saved_model import SavedModel
from kairos_jax.interop.stream_writer import Journal, Slot, StreamWriter, in_order, partial_of
from kairos_jax.released import weights
from kairos_jax.released.catalog import Released

REPORT, JOURNAL = "convert.json", "convert.journal"
VAE = "Wan2.1_VAE.safetensors"
Saved = shards.Tensors | Arrays
OnPiece = Callable[[int], None]  # hears how many bytes were converted


class Done(NamedTuple):
  """What a conversion did: tensors, bytes, tensors that an earlier run had done, and those known to be as before."""

  tensors: int
  size: int
  resumed: int
  same: int | None = None


def to_saved(
  model: Released,
  towers: list[Path],
  codec: Path,
  saved: SavedModel,
  out: Path,
  *,
  kind: Literal["safetensors", "orbax"] = "safetensors",
  on_piece: OnPiece = lambda size: None,
) -> Done:
  """Writes a saved model of official files; every number stays as it is.

  Args:
    towers, codec: the files, as `weights.locate` finds them.
    saved: the model around them; parameters that it has itself, such as its bridge's, are written too.
    out: a folder, which may hold what an interrupted call left there.
    kind: what the weights become: a file, or an Orbax checkpoint.

  Raises:
    KairosError: a tensor is missing, unknown, cut short or of another shape; see `weights.check_towers`.
  """
  found, table = weights.check_towers(model, towers), model.places()
  slots: dict[str, Slot] = {}
  for path, place in table.items():
    kinds = {found[modern_name(name)].dtype for name in place.names}
    shape = place.from_reference(np.broadcast_to(np.uint8(0), place.shape)).shape
    stack = (len(place.names),) if place.stacked else ()
    slots["/".join(path)] = Slot(np.result_type(*kinds), (*stack, *shape))
  for name, x in flatten_dict({"codec": saved.codec.param_shapes(), **saved.params}, sep="/").items():
    slots[name] = Slot(np.dtype(x.dtype), x.shape)

  plan = json.dumps([model.name, kind, *(_identity(file) for file in [*towers, codec])])
  journal = Journal(out / JOURNAL, hashlib.sha256(plan.encode()).hexdigest())
  name = saved_model.FILES[1] if kind == "safetensors" else orbax_weights.FOLDER
  resume = journal.resume(partial_of(out / name))
  writer = (StreamWriter if kind == "safetensors" else OrbaxWriter)(out / name, slots, resume)
  journal.begin()
  resumed = len(journal.done)

  for path, place in table.items():
    for row, official in enumerate(place.names):
      if official in journal.done:
        continue
      stored = found[modern_name(official)]
      values = shards.read(stored)
      entry = _entry(values)
      writer.write("/".join(path), place.from_reference(values), row if place.stacked else None)
      journal.add(official, entry, stored.nbytes, writer)
      on_piece(stored.nbytes)
  if VAE not in journal.done:
    given, size = codec_weights.tensors(codec), 0
    for path, values, _ in codec_weights.stream(saved.codec, codec):
      writer.write("/".join(("codec", *path)), values)
      size += values.nbytes
      on_piece(values.nbytes)
    entries = {name: _entry(x) for name, x in given.items()}
    journal.add(VAE, {"tensors": entries}, size, writer)
  for name, x in flatten_dict(saved.params, sep="/").items():
    writer.write(name, np.asarray(x))
  journal.flush(writer)
  writer.finish()

  encoder: Any = saved.encoder  # one that comes trained reads its files tensor by tensor
  bridge = None if "bridge" in saved.params else saved_model.hash_of(encoder.stream())
  if (statistics := model.config.robot and towers[0].parent / model.config.robot.statistics) and statistics.exists():
    shutil.copyfile(statistics, out / statistics.name)
  done = {name: entry for name, entry in journal.done.items() if name != VAE}
  codec_entries = journal.done[VAE]["tensors"]
  files_lib.write_json(out / REPORT, {"model": model.name, "towers": done, "codec": codec_entries})
  saved_model.describe(out, saved, bridge)
  journal.remove()
  total = sum(found[modern_name(name)].nbytes for place in table.values() for name in place.names)
  return Done(len(done) + len(codec_entries), total, resumed)


def to_official(
  model: Released, folder: Path, out: Path, *, dtype: str | None = None, on_piece: OnPiece = lambda size: None
) -> Done:
  """Writes the official files of a saved model with the official names and shapes.

  Args:
    model: whose names and shapes.
    folder: of the saved model.
    out: gets REPOSITORY/FILE, the autoencoder where it is Wan2.1's, and the statistics where there are some.
    dtype: of the towers; None is that of the official file where the model was converted from one, else its own.

  Raises:
    KairosError: the folder holds no saved model, or one of other shapes than `model`.
  """
  folder = folder if (folder / "model.json").exists() else folder / "model"
  if not (folder / "model.json").exists():
    raise KairosError(f"{folder.parent} holds no finished model: model.json is missing")
  where, given = saved_model.stored_weights(folder)
  report = _report(folder)
  table, codec = model.places(), model.codec
  for path, place in table.items():
    name = "/".join(path)
    inner = place.from_reference(np.broadcast_to(np.uint8(0), place.shape)).shape
    want = (len(place.names), *inner) if place.stacked else inner
    if name not in given.found or given.found[name].shape != want:
      there = "absent" if name not in given.found else str(list(given.found[name].shape))
      raise KairosError(f"{folder}: weight {name!r} is {there}; {model.name} has {list(want)}")
  known = report.get("towers", {})

  def kind(official: str, path: tuple[str, ...]) -> np.dtype:
    own = given.found["/".join(path)].dtype
    return np.dtype(dtype or known.get(official, {}).get("dtype") or own)

  slots = {name: Slot(kind(name, path), place.shape) for path, place in table.items() for name in place.names}
  home = out / model.config.repository
  home.mkdir(parents=True, exist_ok=True)
  plan = json.dumps([model.name, dtype, _identity(where)])
  journal = Journal(home / JOURNAL, hashlib.sha256(plan.encode()).hexdigest())
  file = home / model.config.files[0]
  writer = StreamWriter(file, slots, journal.resume(partial_of(file)))
  journal.begin()
  resumed = len(journal.done)
  for path, place in table.items():
    for row, official in enumerate(place.names):
      if official in journal.done:
        continue
      values = place.to_reference(given.row("/".join(path), row) if place.stacked else given["/".join(path)])
      writer.write(official, values)
      entry = _entry(values, slots[official].dtype)
      journal.add(official, entry, values.nbytes, writer)
      on_piece(values.nbytes)
  journal.flush(writer)
  writer.finish()
  done: dict[str, Any] = dict(journal.done)
  done_codec = _write_codec(codec, given, out / VAE, report.get("codec", {}))
  files_lib.write_json(home / REPORT, {"model": model.name, "towers": done, "codec": done_codec})
  if model.config.robot and (statistics := folder / model.config.robot.statistics).exists():
    shutil.copyfile(statistics, home / statistics.name)
  journal.remove()
  same = None
  if report:
    before = {**known, **report["codec"]}
    same = sum(before.get(name, {}).get("sha256") == entry["sha256"] for name, entry in {**done, **done_codec}.items())
  size = sum(slot.dtype.itemsize * math.prod(slot.shape) for slot in slots.values())
  return Done(len(done) + len(done_codec), size, resumed, same)


def _write_codec(codec: Any, given: Saved, file: Path, known: Mapping[str, Any]) -> dict[str, Any]:
  """The autoencoder's file, if the model's is of that kind; what was written."""
  flat = {tuple(name.split("/")[1:]): name for name in given.found if name.startswith("codec/")}
  shapes = flatten_dict(codec.param_shapes())
  if {path: given.found[name].shape for path, name in flat.items()} != {p: x.shape for p, x in shapes.items()}:
    return {}
  flat = {path: name for path, name in flat.items() if path[0] != "latents"}
  hollow = {path: np.broadcast_to(np.uint8(0), shapes[path].shape) for path in flat}
  # The names of the file that it came from, which may have something before them.
  before = {name.removeprefix("model_state.").removeprefix("model."): name for name in known}
  slots, names = {}, {}
  for name, x in codec.turned_out(hollow):
    names[name] = before.get(name, name)
    slots[names[name]] = Slot(np.dtype(known.get(names[name], {}).get("dtype", "float32")), x.shape)
  writer = StreamWriter(file, slots, resume=False)
  done = {}
  for name, values in codec.turned_out(_Lazy(given, flat)):
    slot = slots[names[name]]
    writer.write(names[name], values)
    done[names[name]] = _entry(values, slot.dtype)
  writer.sync()
  writer.finish()
  return done


class _Lazy(Mapping[tuple[str, ...], np.ndarray]):
  """The arrays of a saved model by other names, each read when it is asked for."""

  def __init__(self, given: Saved, names: Mapping[tuple[str, ...], str]):
    self.given, self.names = given, names

  def __getitem__(self, path: tuple[str, ...]) -> np.ndarray:
    return self.given[self.names[path]]

  def __iter__(self) -> Iterator[tuple[str, ...]]:
    return iter(self.names)

  def __len__(self) -> int:
    return len(self.names)


def _entry(values: np.ndarray, dtype: np.dtype | None = None) -> dict[str, Any]:
  """What the report says of an official tensor."""
  kind, digest = dtype or values.dtype, hashlib.sha256()
  for piece in in_order(values, kind):
    digest.update(piece)
  return {"dtype": kind.name, "shape": list(values.shape), "sha256": digest.hexdigest()}


def _identity(path: Path) -> tuple[str, int, int]:
  """Changes when the file is another."""
  state = path.stat()
  return str(path.absolute()), state.st_size, state.st_mtime_ns


def _report(folder: Path) -> dict[str, Any]:
  """Of the conversion that made the folder, if one did."""
  try:
    return json.loads((folder / REPORT).read_text())
  except FileNotFoundError:
    return {}
  except ValueError as error:
    raise KairosError(f"{folder / REPORT} is not readable JSON: {error}") from None
