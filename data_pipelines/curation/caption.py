"""The caption stage: what the ensemble says of every kept clip, what becomes of it, and what a judge says of that."""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence

from data_pipelines.curation import decide
from data_pipelines.curation.captions.base import Caption, Captioner, Fuser, Judge
from data_pipelines.curation.operators.view import View
from data_pipelines.curation.workspace import Workspace, clip_name
from data_pipelines.engines import ledger
from data_pipelines.engines.base import Asked, Engine, Entry, WorkerDied
from data_pipelines.engines.pool import HERE
from data_pipelines.records import Clip
from data_pipelines.sources import Report
from kairos_jax.errors import KairosError
from kairos_jax.locations import Location


@dataclasses.dataclass(frozen=True)
class Ensemble:
  """Who captions, who fuses and who judges."""

  captioners: Sequence[Captioner]
  fuser: Fuser
  judge: Judge

  @property
  def name(self) -> str:
    """What a caption must be of to count; another ensemble captions again."""
    captioners = "+".join(f"{captioner.name}.{captioner.version}" for captioner in self.captioners)
    fuser = getattr(self.fuser, "__name__", type(self.fuser).__name__)
    return f"{captioners}|{fuser}|{self.judge.name}.{self.judge.version}"

  def __call__(self, clip: Clip) -> Entry:
    """All that is noted of one clip; a member that fails is noted with its error, and the others go on."""
    view = View(clip)
    said, errors = list[tuple[str, Caption]](), dict[str, str]()
    for captioner in self.captioners:
      try:
        said.append((captioner.name, captioner.caption(view)))
      except KairosError as error:
        errors[captioner.name] = str(error)
    entry: Entry = {"ensemble": self.name, "errors": errors, "said": {name: dataclasses.asdict(c) for name, c in said}}
    try:
      if not said:
        raise KairosError("no captioner answered")
      fused = self.fuser(view, [caption for _, caption in said])
      verdict = self.judge.judge(view, fused)
    except KairosError as error:
      return entry | {"failed": str(error)}
    return entry | {"caption": fused.text, "instruction": fused.instruction, "judged": dataclasses.asdict(verdict)}


def caption(workspace: Workspace, ensemble: Ensemble, engine: Engine = HERE) -> Iterator[tuple[int, int, int]]:
  """Captions the kept clips that have no caption of this ensemble; those on which it failed are tried again.

  Yields:
    How many parts are done, how many have kept clips, and how many clips of this one have a caption.
  """
  wanted: dict[int, list[str]] = {}
  for entry in decide.read(workspace):
    if entry["keep"]:
      wanted.setdefault(entry["part"], []).append(entry["clip"])
  items = []
  for part, names in wanted.items():
    known = entries(workspace, part)
    left = [name for name in names if known.get(name, {}).get("ensemble") != ensemble.name or "failed" in known[name]]
    if left:
      items.append((part, left))
  done = len(wanted) - len(items)
  for _, made in engine(Captioning(workspace, ensemble), items):
    done += 1
    count = 0 if isinstance(made, WorkerDied) else sum("caption" in entry for entry in made)
    yield done, len(wanted), count


def entries(workspace: Workspace, part: int) -> dict[str, Entry]:
  """The last caption of each clip of a part."""
  return {entry["clip"]: entry for entry in ledger.read(workspace.ledger("captions", part))}


def summary(workspace: Workspace) -> collections.Counter[str]:
  """Kept clips by whether they are captioned."""
  counts: collections.Counter[str] = collections.Counter()
  part, known = -1, dict[str, Entry]()
  for entry in decide.read(workspace):
    if not entry["keep"]:
      continue
    if entry["part"] != part:
      part = entry["part"]
      known = entries(workspace, part)
    noted = known.get(entry["clip"], {})
    counts["captioned" if "caption" in noted else "failed" if "failed" in noted else "not captioned"] += 1
  return counts


@dataclasses.dataclass(frozen=True)
class Captioning:
  """Captions clips in the second step; an item is a part, and its clips that want a caption."""

  workspace: Workspace
  ensemble: Ensemble

  def reader(self) -> Callable[[tuple[int, Sequence[str]]], Iterator[Asked]]:
    """See `Work`."""
    recordings = self.workspace.recordings()

    def read(item: tuple[int, Sequence[str]]) -> Iterator[Asked]:
      part, names = item
      for clip in recordings.clips(recordings.parts[part], Report()):
        if (name := clip_name(clip)) in names:
          yield Asked(clip, {"clip": name})

    return read

  def answerer(self) -> Callable[[Asked], Entry]:
    """See `Work`."""
    return lambda asked: {**asked.about, **self.ensemble(asked.clip)}

  def ledger(self, item: tuple[int, Sequence[str]]) -> Location:
    """See `Work`."""
    return self.workspace.ledger("captions", item[0])
