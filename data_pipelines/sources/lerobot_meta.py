"""What the meta folder of a LeRobot dataset says, the same for v2.0, v2.1 and v3.0."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.sources.options import inside, needed
from kairos_jax.errors import KairosError

VERSIONS = ("v2.0", "v2.1", "v3.0")
STATES, ACTIONS = ("observation.state", "state"), ("action", "actions")
MAX_TABLE = 2**31  # bytes of the columns of one parquet file, decompressed
_BATCH = 65_536  # rows
_FIELD = re.compile(r"\{(\w+)(?::0(\d)d)?\}")


@dataclasses.dataclass(frozen=True)
class Entry:
  """One episode: where its rows and its frames lie.

  Attributes:
    name: "episode N".
    index: N.
    length: frames.
    data: parquet file, relative to the root.
    videos: file relative to the root and the second in it at which the episode begins, by video key.
  """

  name: str
  index: int
  length: int
  data: str
  videos: Mapping[str, tuple[str, float]]


@dataclasses.dataclass(frozen=True)
class Meta:
  """The dataset as a whole."""

  root: Path
  fps: float
  robot: str
  features: Mapping[str, Mapping[str, Any]]
  tasks: Mapping[int, str]
  entries: tuple[Entry, ...]
  license: str

  @property
  def pictures(self) -> dict[str, str]:
    """Feature keys of the cameras, by their names without the usual prefix."""
    keys = [key for key, feature in self.features.items() if feature.get("dtype") in ("video", "image")]
    return {key.removeprefix("observation.images.").removeprefix("observation."): key for key in keys}

  def is_video(self, key: str) -> bool:
    """Whether a camera's frames lie in mp4 files, not in the rows."""
    return self.features[key]["dtype"] == "video"


def read_meta(root: Path) -> Meta:
  """All of the meta folder that reading needs.

  Raises:
    KairosError: a file is missing or says something else than the format, or the version is unknown.
  """
  pq = needed("pyarrow.parquet", "lerobot")
  try:
    info = json.loads((root / "meta/info.json").read_text())
    version = info["codebase_version"]
    if version not in VERSIONS:
      raise KairosError(f"{root} is of LeRobot {version}: {', '.join(VERSIONS)} can be read")
    if version == "v3.0":
      tasks, entries = _tasks_v3(pq, root), tuple(_entries_v3(pq, root, info))
    else:
      tasks = {row["task_index"]: row["task"] for row in _lines(root / "meta/tasks.jsonl")}
      entries = tuple(_entries_v2(root, info))
    return Meta(
      root, float(info["fps"]), info.get("robot_type") or "", info["features"], tasks, entries, _license(root)
    )
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise KairosError(f"{root} is not a LeRobot dataset: {type(error).__name__} {error}".partition("\n")[0]) from error


def read_rows(pq: Any, path: Path, columns: list[str] | None = None) -> Any:
  """The columns of a parquet file, or all, if they are not too large.

  What a file claims bounds nothing: one value of its dictionary, repeated a billion times, takes a few bytes in it. So
  rows are read in batches that cannot be large, because no value is larger than what its column claims.

  Raises:
    KairosError: they are.
  """
  with pq.ParquetFile(path) as file:
    empty = file.read_row_groups([], columns=columns)
    claimed, value = 0, 1  # bytes of all, and of the largest value there can be
    for i in range(file.metadata.num_row_groups):
      group = file.metadata.row_group(i)
      for column in map(group.column, range(group.num_columns)):
        if columns is not None and not {column.path_in_schema, column.path_in_schema.split(".")[0]} & {*columns}:
          continue
        free = column.physical_type == "BYTE_ARRAY"
        claimed += column.total_uncompressed_size if free else 8 * column.num_values
        value = max(value, column.total_uncompressed_size if free else 1)
    if claimed > MAX_TABLE:
      raise KairosError(f"{path} claims {claimed} bytes of rows: at most {MAX_TABLE}")
    batches, read = [], 0
    for batch in file.iter_batches(max(1, min(_BATCH, MAX_TABLE // value)), columns=columns):
      read += batch.nbytes
      if read > MAX_TABLE:
        raise KairosError(f"{path} claims {claimed} bytes of rows and holds more than {read}: at most {MAX_TABLE}")
      batches.append(batch)
    return type(empty).from_batches(batches, empty.schema)


def _entries_v2(root: Path, info: Mapping[str, Any]) -> Iterator[Entry]:
  keys = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
  for row in _lines(root / "meta/episodes.jsonl"):
    index = int(row["episode_index"])
    values = {"episode_index": index, "episode_chunk": index // int(info["chunks_size"])}
    videos = {key: (_fill(info["video_path"], {**values, "video_key": key}), 0.0) for key in keys}
    yield Entry(f"episode {index}", index, int(row["length"]), _fill(info["data_path"], values), videos)


def _entries_v3(pq: Any, root: Path, info: Mapping[str, Any]) -> Iterator[Entry]:
  """Many episodes share a file; columns of statistics, most of the table, are not read."""
  keys = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
  place = ("chunk_index", "file_index")
  columns = ["episode_index", "length", *(f"data/{name}" for name in place)]
  columns += [f"videos/{key}/{name}" for key in keys for name in (*place, "from_timestamp")]
  files = sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet"))
  if not files:
    raise KairosError(f"{root} is not a LeRobot dataset: meta/episodes has no parquet file")
  for path in files:
    for row in read_rows(pq, path, columns).to_pylist():
      data = _fill(info["data_path"], {name: row[f"data/{name}"] for name in place})
      videos = {}
      for key in keys:
        values = {name: row[f"videos/{key}/{name}"] for name in place}
        file = _fill(info["video_path"], {**values, "video_key": key})
        videos[key] = file, float(row[f"videos/{key}/from_timestamp"])
      index = int(row["episode_index"])
      yield Entry(f"episode {index}", index, int(row["length"]), data, videos)


def _tasks_v3(pq: Any, root: Path) -> dict[int, str]:
  """The text is the index of a pandas frame: its column has the index's name, or none of its own."""
  table = read_rows(pq, root / "meta/tasks.parquet").to_pydict()
  texts = next(values for name, values in table.items() if name != "task_index")
  return dict(zip(table["task_index"], texts, strict=True))


def _fill(template: str, values: Mapping[str, Any]) -> str:
  """A path from its template; only plain fields, `{name}` or `{name:03d}`, as a file may ask for anything else."""
  return _FIELD.sub(lambda match: str(values[match[1]]).zfill(int(match[2] or 0)), template)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
  with path.open(encoding="utf-8") as file:
    for line in file:
      if line.strip():
        yield json.loads(line)


def _license(root: Path) -> str:
  """From the front matter of the dataset's card, the only place that has it."""
  card = inside(root, "README.md")
  text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
  front = text.split("---")[1] if text.startswith("---") and text.count("---") > 1 else ""
  found = re.search(r"^license:\s*([\w.+-]+)\s*$", front, flags=re.MULTILINE)
  return found[1] if found else ""
