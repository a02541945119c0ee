"""The folder in which a curation goes on: how it reads its raw data, and a ledger for each stage and part.

curation.json            the recipe: what is read, and how it is cut
shots/00012.jsonl        the shots of video 12, or why it has none          (ingest)
scores/00012.jsonl       the scores of every clip of part 12                (curate)
decisions.jsonl          which clips are kept and why, all of them          (curate, anew each time)
captions/00012.jsonl     captions and what a judge says of them             (caption)
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.engines import ledger
from data_pipelines.records import Clip
from data_pipelines.sources import Cut, Recordings, open_reader
from data_pipelines.sources.episode import Episode, LeftOut, Reader, Span
from kairos_jax import files, locations
from kairos_jax.errors import KairosError
from kairos_jax.locations import Location

RECIPE = "curation.json"
SEGMENTED = ("videos", "manifest")  # formats whose episodes are cut at their shots


@dataclasses.dataclass(frozen=True)
class Workspace:
  """One curation.

  Attributes:
    folder: of the workspace.
    kind, path, options: of the raw data, as `sources.open_source` takes them.
    cut: how clips are scaled, thinned and cut.
  """

  folder: Location
  kind: str
  path: str
  options: Mapping[str, Any]
  cut: Cut

  @classmethod
  def begin(cls, folder: str | Location, kind: str, path: str | Path, cut: Cut, **options: Any) -> "Workspace":
    """Makes one, or opens the one that is there.

    Raises:
      KairosError: the folder holds another curation.
    """
    folder = locations.at(folder)
    made = cls(folder, kind, str(Path(path).resolve()), options, cut)
    recipe = json.loads(json.dumps(made.recipe()))
    if (folder / RECIPE).is_file():
      noted = cls.open(folder).recipe()
      noted = json.loads(json.dumps(noted))
      if different := sorted(key for key in recipe if noted[key] != recipe[key]):
        raise KairosError(
          f"{folder} holds another curation, which differs in {', '.join(different)}: choose a new folder"
        )
    else:
      files.write_json(folder / RECIPE, recipe)
    return made

  @classmethod
  def open(cls, folder: str | Location) -> "Workspace":
    """The one in a folder.

    Raises:
      KairosError: there is none.
    """
    path = locations.at(folder) / RECIPE
    try:
      noted = json.loads(path.read_text())
      cut = dict(noted["cut"])
      cut["size"] = tuple(cut["size"]) if isinstance(cut["size"], list) else cut["size"]
      return cls(locations.at(folder), noted["from"], noted["path"], noted["options"], Cut(**cut))
    except FileNotFoundError as error:
      raise KairosError(f"no curation in {folder}: begin one with kairos data ingest --out={folder}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise KairosError(f"cannot read {path}: {error}") from error

  def recipe(self) -> dict[str, Any]:
    """What tells this curation from another, as JSON."""
    return {"from": self.kind, "path": self.path, "options": dict(self.options), "cut": dataclasses.asdict(self.cut)}

  @property
  def segmented(self) -> bool:
    """Whether clips are shots of videos, rather than the episodes of a robot."""
    return self.kind in SEGMENTED

  def reader(self) -> Reader:
    """Of whole episodes; a part of a folder of videos is one video."""
    reader = open_reader(self.kind, self.path, **self.options)
    return OneByOne(reader) if self.segmented else reader

  def clip_reader(self) -> Reader:
    """Of the episodes that clips are cut from; those of videos are the shots that `ingest` has found."""
    reader = self.reader()
    return Shots(reader, self) if self.segmented else reader

  def recordings(self) -> Recordings:
    """The clips."""
    return Recordings(self.clip_reader(), self.cut)

  def ledger(self, stage: str, part: int) -> Location:
    """Of one stage for one part."""
    return self.folder / stage / f"{part:05d}.jsonl"

  def shots(self, part: int) -> dict[str, Any]:
    """What `ingest` has written of a video: its shots or why it is rejected; empty before."""
    return next(iter(reversed(list(ledger.read(self.ledger("shots", part))))), {})


class OneByOne:
  """A reader of videos whose parts hold one file each."""

  def __init__(self, reader: Reader):
    self._reader, self.origin = reader, reader.origin
    self.parts: Sequence[Any] = [[entry] for part in reader.parts for entry in part]

  def episodes(self, part: Any) -> Iterator[Episode | LeftOut]:
    """Of one file."""
    return self._reader.episodes(part)


class Shots:
  """A reader of videos that are cut at their shots; its parts are the numbers of the videos."""

  def __init__(self, reader: Reader, workspace: Workspace):
    self._reader, self._workspace, self.origin = reader, workspace, reader.origin
    self.parts: Sequence[Any] = range(len(reader.parts))

  def episodes(self, part: Any) -> Iterator[Episode | LeftOut]:
    """The shots of one video, as spans of its episode."""
    noted = self._workspace.shots(part)
    if not noted.get("shots"):
      return  # `ingest` has said why
    for episode in self._reader.episodes(self._reader.parts[part]):
      if isinstance(episode, LeftOut):
        yield episode
        continue
      caption = episode.spans[0].caption
      spans = [Span(start, end, caption=caption) for start, end in noted["shots"]]
      size = {"height": noted["height"], "width": noted["width"]}
      yield dataclasses.replace(episode, spans=spans, provenance={**episode.provenance, **size})


def clip_name(clip: Clip) -> str:
  """A clip's name in the ledgers: its episode and its frames in it."""
  start, stop = clip.provenance["frames"]
  return f"{clip.provenance['episode']}#{start}-{stop}"
