"""Scores: every clip is read once, each operator gives its number, and a signature tells copies apart later."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from data_pipelines import embodiments
from data_pipelines.curation import hashing, operators
from data_pipelines.curation.operators import Operator
from data_pipelines.curation.operators.view import View
from data_pipelines.curation.workspace import Workspace, clip_name
from data_pipelines.engines import ledger
from data_pipelines.engines.base import Asked, Engine, Entry, WorkerDied, no_questions
from data_pipelines.engines.ledger import Ledger
from data_pipelines.engines.pool import HERE
from data_pipelines.records import Clip
from data_pipelines.sources import Report
from kairos_jax.locations import Location

Versions = Mapping[str, Any]  # by operator, and of the signature
Item = tuple[int, Mapping[str, Versions]]  # a part, and what is known of its clips


def score(workspace: Workspace, names: Sequence[str], engine: Engine = HERE) -> Iterator[tuple[int, int, int]]:
  """Scores the clips that have no score of these operators yet.

  Args:
    workspace: whose videos are segmented.
    names: of operators.
    engine: that does the work.

  Yields:
    How many parts are done, how many there are, and how many clips this one has.

  Raises:
    KairosError: an unknown operator, or one whose package is missing.
  """
  chosen = operators.chosen(names)
  operators.check(chosen)
  work, wanted = Scoring(workspace, operators.anywhere(names)), versions(chosen)
  count = len(workspace.recordings().parts)
  missing = [part for part in range(count) if not _done(workspace, part, wanted | _shots(workspace, part))]
  done = count - len(missing)
  for item, noted in engine(work, [(part, _known(workspace, part)) for part in missing]):
    if isinstance(noted, WorkerDied):
      noted = [work.last(item[0], [], {"a process died on it": 1})]
      with Ledger(work.ledger(item)) as book:
        book.append(noted[0])
    done += 1
    yield done, count, len(noted[-1]["clips"])


def versions(chosen: Sequence[Operator]) -> dict[str, Any]:
  """Of the operators and of the signature: what a score must be of to count."""
  return {operator.name: operator.version for operator in chosen} | {"signature": hashing.VERSION}


def entries(workspace: Workspace, part: int) -> tuple[dict[str, Entry], dict[str, int]]:
  """What is known of each clip of a part, merged, in the order of the clips; and what was left out of it, by reason."""
  clips, last = _merged(workspace, part)
  # Earlier shots may have been others than those of the last reading that came to its end.
  return ({name: clips[name] for name in last["clips"]}, last["left_out"]) if last else (clips, {})


def _merged(workspace: Workspace, part: int) -> tuple[dict[str, Entry], Entry]:
  """What is known of each clip, those of earlier shots included; and the last entry of a part that was done."""
  clips: dict[str, Entry] = {}
  last: Entry = {}
  for entry in ledger.read(workspace.ledger("scores", part)):
    if "done" in entry:
      last = entry
    else:
      known = clips.setdefault(entry["clip"], {"scores": {}})
      known |= {key: value for key, value in entry.items() if key != "scores"}
      known["scores"] |= entry["scores"]
  return clips, last


def _shots(workspace: Workspace, part: int) -> dict[str, Any]:
  """By which detector a part's videos are cut."""
  return {"shots": workspace.shots(part).get("version", "")} if workspace.segmented else {}


def _done(workspace: Workspace, part: int, wanted: dict[str, Any]) -> bool:
  done: dict[str, Any] = {}
  for entry in ledger.read(workspace.ledger("scores", part)):
    done |= entry.get("done", {})
  return wanted.items() <= done.items()


def _known(workspace: Workspace, part: int) -> dict[str, Versions]:
  """Of which versions the clips of a part are scored already."""
  known: dict[str, Versions] = {}
  for name, entry in _merged(workspace, part)[0].items():
    measured = {**entry["scores"], "signature": entry.get("signature", {})}
    known[name] = {key: value.get("version") for key, value in measured.items()}
  return known


@dataclasses.dataclass(frozen=True)
class Scoring:
  """Scores the clips of parts. Operators that run a model are asked in the second step."""

  workspace: Workspace
  names: tuple[str, ...]

  def reader(self) -> Callable[[Item], Iterator[Asked | Entry]]:
    """See `Work`."""
    recordings, chosen = self.workspace.recordings(), operators.chosen(self.names)
    wanted, measures = versions(chosen), Measures([operator for operator in chosen if not operator.heavy])

    def read(item: Item) -> Iterator[Asked | Entry]:
      part, known = item
      report, names = Report(), list[str]()
      for clip in recordings.clips(recordings.parts[part], report):
        names.append(clip_name(clip))
        of = known.get(names[-1], {})
        missing = [operator for operator in chosen if of.get(operator.name) != operator.version]
        signed = of.get("signature") == wanted["signature"]
        if not missing and signed:
          continue
        view = View(clip)
        entry = _described(clip, names[-1])
        entry["scores"] = {x.name: measures.score(x, view) for x in missing if not x.heavy}
        if not signed:
          entry["signature"] = {"version": hashing.VERSION, "hashes": hashing.to_text(hashing.signature(view))}
        heavy = [operator.name for operator in missing if operator.heavy]
        yield Asked(clip, {"entry": entry, "operators": heavy}) if heavy else entry
      yield self.last(part, names, dict(report.left_out))

    return read

  def answerer(self) -> Callable[[Asked], Entry]:
    """See `Work`."""
    heavy = [operator for operator in operators.chosen(self.names) if operator.heavy]
    if not heavy:
      return no_questions
    measures = Measures(heavy)

    def answer(asked: Asked) -> Entry:
      view, entry = View(asked.clip), asked.about["entry"]
      scores = {x.name: measures.score(x, view) for x in heavy if x.name in asked.about["operators"]}
      return entry | {"scores": entry["scores"] | scores}

    return answer

  def ledger(self, item: Item) -> Location:
    """See `Work`."""
    return self.workspace.ledger("scores", item[0])

  def last(self, part: int, clips: Sequence[str], left_out: Mapping[str, int]) -> Entry:
    """What is noted of a part that is done."""
    done = versions(operators.chosen(self.names)) | _shots(self.workspace, part)
    return {"done": done, "clips": list(clips), "left_out": dict(left_out)}


class Measures:
  """The measures of some operators, made once in a process."""

  def __init__(self, chosen: Sequence[Operator]):
    self._made = {operator.name: operator.make() for operator in chosen}

  def score(self, operator: Operator, view: View) -> Entry:
    """What is noted of an operator's opinion of a clip."""
    try:
      value = self._made[operator.name](view)
    except Exception as error:  # of a library, on a picture that it did not expect; the clip is then rejected
      return {"version": operator.version, "error": f"{type(error).__name__}: {error}"[:300]}
    return {"version": operator.version, "score": value if value is None else round(float(value), 6)}


def _described(clip: Clip, name: str) -> Entry:
  """What a ledger keeps of a clip beside its scores."""
  video = next(iter(clip.cameras.values()))
  return {
    "clip": name,
    "source": clip.source,
    "embodiment": clip.embodiment,
    "seconds": len(video) / clip.video_fps,
    "pixels": clip.provenance.get("height", video.shape[1]) * clip.provenance.get("width", video.shape[2]),
    "caption": clip.caption,
    "instruction": clip.instruction,
    "robot": bool(embodiments.get(clip.embodiment).action),
  }
