"""What a dataset says of every record without its being read: how long it is, of which source, how it was scored.

A stage filters clips and sorts them into buckets by it. It lies beside the shards, 10 bytes a record and 4 more for
each score that curation measured.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Float64, UInt16

from data_pipelines.records import Clip
from kairos_jax import files
from kairos_jax.errors import KairosError
from kairos_jax.locations import Location

INDEX = "index.safetensors"


@dataclasses.dataclass(frozen=True)
class Index:
  """Of R records, holes included.

  Attributes:
    names: of the sources, `clip.source`.
    source: which of `names`.
    seconds: frames / video_fps.
    scores: by operator of the curation; NaN where it was not measured.
  """

  names: tuple[str, ...]
  source: UInt16[np.ndarray, "R"]
  seconds: Float64[np.ndarray, "R"]
  scores: Mapping[str, Float32[np.ndarray, "R"]]

  def __len__(self) -> int:
    return len(self.source)

  def part(self, start: int, stop: int) -> "Index":
    """Of the records from `start` to `stop`."""
    scores = {name: values[start:stop] for name, values in self.scores.items()}
    return Index(self.names, self.source[start:stop], self.seconds[start:stop], scores)

  def tensors(self) -> dict[str, np.ndarray]:
    """As named arrays, for a file."""
    names = np.frombuffer("\n".join(self.names).encode(), np.uint8)
    scores = {f"score/{name}": values for name, values in self.scores.items()}
    return {"names": names, "source": self.source, "seconds": self.seconds, **scores}


class Builder:
  """Collects the index of clips in the order in which they are written."""

  def __init__(self) -> None:
    self._names: dict[str, int] = {}
    self._rows: list[tuple[int, float]] = []
    self._scores: list[Mapping[str, float]] = []

  def add(self, clip: Clip) -> None:
    """The next record."""
    self._rows.append((self._names.setdefault(clip.source, len(self._names)), clip.frames / clip.video_fps))
    self._scores.append(clip.provenance.get("scores", {}))

  def build(self) -> Index:
    """Of the clips so far."""
    source, seconds = zip(*self._rows, strict=True) if self._rows else ((), ())
    names = sorted({name for scores in self._scores for name in scores})
    columns = {name: np.array([scores.get(name, np.nan) for scores in self._scores], np.float32) for name in names}
    return Index(tuple(self._names), np.array(source, np.uint16), np.array(seconds, np.float64), columns)


def concatenate(parts: Sequence[Index]) -> Index:
  """Of the records of all parts, one after the other."""
  names = sorted({name for part in parts for name in part.names})
  place = {name: number for number, name in enumerate(names)}
  sources = [np.array([place[name] for name in part.names], np.uint16)[part.source] for part in parts]
  scored = sorted({name for part in parts for name in part.scores})
  scores = {
    name: np.concatenate([part.scores.get(name, np.full(len(part), np.nan, np.float32)) for part in parts])
    for name in scored
  }
  return Index(tuple(names), np.concatenate(sources), np.concatenate([part.seconds for part in parts]), scores)


def write(path: Location, index: Index) -> None:
  """Writes it as safetensors."""
  files.write_safetensors(path, index.tensors())


def read(path: Location) -> Index:
  """What `write` wrote.

  Raises:
    KairosError: there is no such file, or it is damaged.
  """
  if not path.is_file():
    raise KairosError(f"{path} is missing: the dataset is older than stages with buckets, build or import it again")
  tensors = files.read_safetensors(path)
  try:
    names = tuple(tensors["names"].tobytes().decode().split("\n"))
    scores = {name.removeprefix("score/"): values for name, values in tensors.items() if name.startswith("score/")}
    index = Index(names, tensors["source"], tensors["seconds"], scores)
    if {len(values) for values in (index.seconds, *scores.values())} - {len(index)}:
      raise KairosError(f"{path} is damaged: its columns differ in length")
    return index
  except (KeyError, UnicodeDecodeError) as error:
    raise KairosError(f"{path} is damaged: {error}") from error
