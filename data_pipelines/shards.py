"""A dataset on disk: ArrayRecord shards of records, and a manifest, `dataset.json`, beside them; written atomically."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines import records
from data_pipelines.normalize import summarize
from data_pipelines.records import Clip
from kairos_jax.errors import KairosError

MANIFEST = "dataset.json"


def write_shards(
  clips: Iterable[Clip], folder: str | Path, name: str, per_shard: int, recipe: Mapping[str, object] | None = None
) -> list[str]:
  """Writes clips as `{name}-00000-of-00004.array_record` shards and the manifest.

  All is written under temporary names; then the shards are renamed, and the manifest last: a folder with a manifest
  is complete. One clip is held in memory, and all states and actions, for their quantiles.

  Args:
    clips: at least one; those of one source have the same frame size and number of dimensions.
    folder: made if missing; an older dataset there is replaced.
    name: of the dataset, the shards' prefix.
    per_shard: records in every shard but the last.
    recipe: how the dataset was made (JSON values), kept in the manifest.

  Returns:
    The shards' file names, in order.

  Raises:
    KairosError: there are no clips, or clips of one source differ in shape.
  """
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  sources: dict[str, _Source] = {}
  counts: list[int] = []
  temporary: list[Path] = []
  try:
    for chunk in _split(clips, per_shard):
      counts.append(0)
      temporary.append(folder / f".{name}-{len(temporary):05d}.{os.getpid()}.tmp")
      # One record a group: a random read decompresses that record alone.
      writer = ArrayRecordWriter(str(temporary[-1]), "group_size:1,zstd")
      for clip in chunk:
        writer.write(records.encode(clip))
        counts[-1] += 1
        sources.setdefault(clip.source, _Source(clip)).add(clip)
      writer.close()
    if not counts:
      raise KairosError(f"dataset {name!r} has no clips: at least one is required")
    shards = [f"{name}-{i:05d}-of-{len(counts):05d}.array_record" for i in range(len(counts))]
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.glob(f"{name}-[0-9]*-of-[0-9]*.array_record"):  # of an older dataset, which may have had more
      path.unlink()
    for path, shard in zip(temporary, shards, strict=True):
      os.replace(path, folder / shard)
  finally:
    for path in temporary:
      path.unlink(missing_ok=True)

  manifest = {
    "name": name,
    "records": sum(counts),
    "shards": [{"file": shard, "records": count} for shard, count in zip(shards, counts, strict=True)],
    "sources": {key: source.summary() for key, source in sorted(sources.items())},
    "recipe": dict(recipe or {}),
  }
  path = folder / f".{MANIFEST}.{os.getpid()}.tmp"
  path.write_text(json.dumps(manifest, indent=2) + "\n")
  os.replace(path, folder / MANIFEST)
  return shards


def read_manifest(folder: str | Path) -> dict:
  """The manifest of a dataset folder.

  Raises:
    KairosError: there is none, or it is not a manifest.
  """
  path = Path(folder) / MANIFEST
  try:
    manifest = json.loads(path.read_text())
  except FileNotFoundError as error:
    raise KairosError(f"no dataset in {folder}: {MANIFEST} is missing") from error
  except (OSError, ValueError) as error:
    raise KairosError(f"cannot read {path}: {error}") from error
  if not isinstance(manifest, dict) or not {"name", "records", "shards", "sources"} <= manifest.keys():
    raise KairosError(f"{path} is not a dataset manifest: name, records, shards and sources are required")
  return manifest


def statistics(folder: str | Path) -> dict[str, dict[str, dict]]:
  """Per source and feature: {"robot": {"action": {"count": 4000, "min": [...], ..., "q99": [...]}}}.

  `min`, `max`, `mean`, `std`, `q01` and `q99` are lists, one number a dimension, over labeled entries; a source
  without labels has no features.
  """
  return {source: entry["statistics"] for source, entry in read_manifest(folder)["sources"].items()}


def _split(clips: Iterable[Clip], size: int) -> Iterator[Iterator[Clip]]:
  """Consecutive runs of `size` clips, each to be consumed before the next."""
  clips = iter(clips)
  for first in clips:
    yield chain([first], islice(clips, size - 1))


class _Source:
  """What the manifest says of one source, gathered clip by clip."""

  def __init__(self, clip: Clip):
    self._first = clip
    self._frames: list[int] = []
    self._labels: dict[str, list[np.ndarray]] = {"state": [], "action": []}

  def add(self, clip: Clip) -> None:
    shape, expected = _shape(clip), _shape(self._first)
    if shape != expected:
      raise KairosError(f"a clip of source {clip.source!r} has {shape}, the first {expected}: they must agree")
    self._frames.append(len(clip.video))
    self._labels["state"].append(clip.state[clip.state_mask])
    self._labels["action"].append(clip.action[clip.action_mask])

  def summary(self) -> dict:
    labels = {feature: np.concatenate(values) for feature, values in self._labels.items()}
    return {
      "records": len(self._frames),
      "frames": {"min": min(self._frames), "max": max(self._frames), "total": sum(self._frames)},
      "shapes": _shape(self._first),
      "embodiment": self._first.embodiment,
      "statistics": {feature: summarize(values) for feature, values in labels.items() if values.size},
    }


def _shape(clip: Clip) -> dict[str, list[int]]:
  return {"frame": list(clip.video.shape[1:]), "state": [clip.state.shape[1]], "action": [clip.action.shape[1]]}
