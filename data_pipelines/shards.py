"""A dataset on disk: ArrayRecord shards, their statistics and index, and a manifest, `dataset.json`, written last.

Many writers can work at once: each writes whole shards with partial statistics (`write_shard`), in any order, and one
step at the end merges them (`finalize`). One writer alone calls `write_shards`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines import index as index_lib
from data_pipelines import records, statistics
from data_pipelines.contents import Contents
from data_pipelines.records import Clip
from data_pipelines.statistics import Features
from kairos_jax import files, locations
from kairos_jax.errors import KairosError
from kairos_jax.locations import Location

MANIFEST = "dataset.json"
STATISTICS = "statistics.safetensors"
PARTS = ".parts"  # where shards lie until the dataset is complete
_RECIPE = "recipe.json"  # among them: what they are shards of


def write_shard(
  clips: Iterable[Clip], folder: str | Location, number: int, horizon: int = 1, compressed: bool = True
) -> None:
  """Writes shard `number` of a dataset that is not complete yet, and its partial statistics; repeating it replaces it.

  Nothing that is already in `folder` changes before `finalize`. One clip is held in memory.

  Args:
    clips: at least one; those of one source have the same cameras, sizes and numbers of dimensions.
    folder: of the dataset; made if missing.
    number: of the shard, from 0.
    horizon: steps of a chunk that get action statistics of their own; for embodiments normalized per step.
    compressed: by zstd; else records are stored as they are, larger and faster to read.

  Raises:
    KairosError: there are no clips, or clips of one source differ in shape.
  """
  parts = locations.at(folder) / PARTS
  parts.mkdir(parents=True, exist_ok=True)
  contents: dict[str, Contents] = {}
  features: dict[str, Features] = {}
  index = index_lib.Builder()
  count = 0
  with files.replaced(parts / f"{number:05d}.array_record") as path:
    # One record a group: a random read decompresses that record alone.
    writer = ArrayRecordWriter(path, f"group_size:1,{'zstd' if compressed else 'uncompressed'}")
    try:
      for clip in clips:
        writer.write(records.encode(clip))
        count += 1
        index.add(clip)
        seen = Contents.of_clip(clip)
        contents[clip.source] = contents[clip.source].merged(seen) if clip.source in contents else seen
        statistics.merge_into(features.setdefault(clip.source, {}), statistics.of_clip(clip, horizon))
    finally:
      writer.close()
    if not count:
      raise KairosError(f"shard {number} of {folder} has no clips: at least one is required")
    content = files.sha256(path)
  index_lib.write(parts / f"{number:05d}.{index_lib.INDEX}", index.build())
  described = {
    "records": count,
    "sha256": content,
    "contents": {name: entry.to_json() for name, entry in contents.items()},
  }
  _save_statistics(parts / f"{number:05d}.safetensors", {name: features[name] for name in contents}, described)


def go_on(folder: str | Location, recipe: Mapping[str, object]) -> set[int]:
  """Numbers of the shards that were written before an interruption; those of another recipe are removed."""
  parts = locations.at(folder) / PARTS
  try:
    same = json.loads((parts / _RECIPE).read_text()) == recipe
  except (OSError, ValueError):
    same = False
  if not same:
    locations.remove_folder(parts)
    parts.mkdir(parents=True)
    files.write_json(parts / _RECIPE, recipe)
  return {int(path.stem) for path in parts.glob("*.safetensors") if path.stem.isdecimal()}  # a shard's last file


def finalize(
  folder: str | Location, name: str, shards: int | Sequence[int], recipe: Mapping[str, object] | None = None
) -> list[str]:
  """Makes the dataset of the shards that writers have left; an older one there is replaced.

  The manifest is written last: a folder with a manifest is complete. Until then the writers' shards stay where they
  are, so after a kill at any moment it is called again.

  Args:
    folder: of the dataset.
    name: of the dataset, the shards' prefix.
    shards: how many were written, from 0 on; or the numbers of those that were.
    recipe: how the dataset was made (JSON values), kept in the manifest.

  Returns:
    The shards' file names, in order.

  Raises:
    KairosError: a shard is missing or of an older version, or shards differ in the shapes of a source.
  """
  folder = locations.at(folder)
  parts = folder / PARTS
  contents: dict[str, Contents] = {}
  merged: dict[str, Features] = {}
  written: list[dict[str, Any]] = []
  indices: list[index_lib.Index] = []
  numbers = range(shards) if isinstance(shards, int) else shards
  for number in numbers:
    if not (parts / f"{number:05d}.array_record").is_file():
      raise KairosError(f"dataset {name!r}: shard {number} of {len(numbers)} was not written")
    described, features = _load_statistics(parts / f"{number:05d}.safetensors")
    if "sha256" not in described:
      raise KairosError(f"dataset {name!r}: shard {number} is of an older version; delete {parts} and build it again")
    written.append({"records": described["records"], "sha256": described["sha256"]})
    indices.append(index_lib.read(parts / f"{number:05d}.{index_lib.INDEX}"))
    for source, values in described["contents"].items():
      entry = Contents.from_json(values)
      contents[source] = contents[source].merged(entry) if source in contents else entry
      statistics.merge_into(merged.setdefault(source, {}), features[source])
  if not written:
    raise KairosError(f"dataset {name!r} has no clips: at least one is required")

  contents = {source: contents[source] for source in sorted(contents)}
  merged = {source: merged[source] for source in contents}
  (folder / MANIFEST).unlink(missing_ok=True)
  for path in folder.glob("*.array_record"):  # of an older dataset, or of one that was not finished
    path.unlink()
  for file in (STATISTICS, index_lib.INDEX, MANIFEST):
    files.remove_leftovers(folder / file)
  names = [f"{name}-{place:05d}-of-{len(numbers):05d}.array_record" for place in range(len(numbers))]
  for number, file in zip(numbers, names, strict=True):
    locations.link(parts / f"{number:05d}.array_record", folder / file)
  _save_statistics(folder / STATISTICS, merged, {"contents": {source: {} for source in merged}})
  index_lib.write(folder / index_lib.INDEX, index_lib.concatenate(indices))
  manifest = {
    "version": records.VERSION,
    "name": name,
    "records": sum(shard["records"] for shard in written),
    "shards": [{"file": file, **shard} for file, shard in zip(names, written, strict=True)],
    "sources": {
      source: {**entry.to_json(), "statistics": {key: _summary(value) for key, value in merged[source].items()}}
      for source, entry in contents.items()
    },
    "recipe": dict(recipe or {}),
  }
  files.write_json(folder / MANIFEST, manifest)
  clear(folder)
  return names


def clear(folder: str | Location) -> None:
  """Removes what writers have left in a folder that is complete: they may have been killed while they did so."""
  locations.remove_folder(locations.at(folder) / PARTS)


def write_shards(
  clips: Iterable[Clip],
  folder: str | Location,
  name: str,
  per_shard: int,
  recipe: Mapping[str, object] | None = None,
  horizon: int = 1,
  compressed: bool = True,
) -> list[str]:
  """Writes a dataset by one writer, `per_shard` records in every shard but the last; see `write_shard`, `finalize`.

  A failure leaves nothing behind and keeps an older dataset.
  """
  number = 0
  clips = iter(clips)
  try:
    for first in clips:
      write_shard(chain([first], islice(clips, per_shard - 1)), folder, number, horizon, compressed)
      number += 1
    return finalize(folder, name, number, recipe)
  finally:
    locations.remove_folder(locations.at(folder) / PARTS)


def read_manifest(folder: str | Location) -> dict[str, Any]:
  """The manifest of a dataset folder.

  Raises:
    KairosError: there is none, it is not a manifest, or it is of another version.
  """
  path = locations.at(folder) / MANIFEST
  try:
    manifest = json.loads(path.read_text())
  except FileNotFoundError as error:
    raise KairosError(f"no dataset in {folder}: {MANIFEST} is missing") from error
  except (OSError, ValueError) as error:
    raise KairosError(f"cannot read {path}: {error}") from error
  if not isinstance(manifest, dict) or not {"name", "records", "shards", "sources"} <= manifest.keys():
    raise KairosError(f"{path} is not a dataset manifest: name, records, shards and sources are required")
  records.check_version(manifest.get("version", 1), f"dataset {folder}")
  return manifest


def read_statistics(folder: str | Location) -> dict[str, Features]:
  """The mergeable statistics of a complete dataset, by source and feature.

  Raises:
    KairosError: their file is missing or damaged.
  """
  return _load_statistics(locations.at(folder) / STATISTICS)[1]


def _summary(feature: statistics.Statistics) -> dict[str, Any]:
  values = {key: value.tolist() for key, value in feature.summary().items()}
  return {"count": feature.count, **values, "rank_error": feature.overall.sketch.rank_error}


def _save_statistics(path: Location, features: Mapping[str, Features], described: Mapping[str, Any]) -> None:
  description = np.frombuffer(json.dumps(described).encode(), np.uint8)
  files.write_safetensors(path, statistics.to_tensors(features) | {"description": description})


def _load_statistics(path: Location) -> tuple[dict[str, Any], dict[str, Features]]:
  try:
    tensors = files.read_safetensors(path)
    described = json.loads(tensors.pop("description").tobytes())
    return described, statistics.from_tensors(described["contents"], tensors)
  except (KairosError, ValueError, KeyError, IndexError, TypeError) as error:
    raise KairosError(f"cannot read the statistics {path}: {error}") from error
