"""Scores: every clip is read once, each operator gives its number, and a signature tells copies apart later."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from data_pipelines import embodiments
from data_pipelines.curation import hashing, ledger, operators, pool
from data_pipelines.curation.ledger import Ledger
from data_pipelines.curation.operators.view import View
from data_pipelines.curation.workspace import Workspace, clip_name
from data_pipelines.records import Clip
from data_pipelines.sources import Report

Entry = dict[str, Any]


def score(workspace: Workspace, names: Sequence[str], processes: int = 1) -> Iterator[tuple[int, int, Report]]:
  """Scores the clips that have no score of these operators yet.

  Args:
    workspace: whose videos are segmented.
    names: of operators.
    processes: at once.

  Yields:
    How many parts are done, how many there are, and what was read of this one.

  Raises:
    KairosError: an unknown operator, or one whose package is missing.
  """
  chosen = operators.chosen(names)
  operators.check(chosen)
  wanted = versions(chosen)
  count = len(workspace.recordings().parts)
  missing = [part for part in range(count) if not _done(workspace, part, wanted | _shots(workspace, part))]
  done = count - len(missing)
  for part, report in pool.run(functools.partial(_Scoring, workspace, tuple(names)), missing, processes):
    if isinstance(report, pool.WorkerDied):
      with Ledger(workspace.ledger("scores", part)) as book:
        done_as = wanted | _shots(workspace, part)
        book.append({"done": done_as, "clips": [], "left_out": {"a process died on it": 1}})
      report = Report()
      report.left_out["a process died on it"] += 1
    done += 1
    yield done, count, report


def versions(chosen: Sequence[operators.Operator]) -> dict[str, Any]:
  """Of the operators and of the signature: what a score must be of to count."""
  return {operator.name: operator.version for operator in chosen} | {"signature": hashing.VERSION}


def entries(workspace: Workspace, part: int) -> tuple[dict[str, Entry], dict[str, int]]:
  """What is known of each clip of a part, merged, in the order of the clips; and what was left out of it, by reason."""
  clips: dict[str, Entry] = {}
  left_out: dict[str, int] = {}
  there: list[str] | None = None  # of the last reading that came to its end; earlier shots may have been others
  for entry in ledger.read(workspace.ledger("scores", part)):
    if "done" in entry:
      left_out, there = entry["left_out"], entry["clips"]
    else:
      known = clips.setdefault(entry["clip"], {"scores": {}})
      known |= {key: value for key, value in entry.items() if key != "scores"}
      known["scores"] |= entry["scores"]
  return clips if there is None else {name: clips[name] for name in there}, left_out


def _shots(workspace: Workspace, part: int) -> dict[str, Any]:
  """By which detector a part's videos are cut."""
  return {"shots": workspace.shots(part).get("version", "")} if workspace.segmented else {}


def _done(workspace: Workspace, part: int, wanted: dict[str, Any]) -> bool:
  done: dict[str, Any] = {}
  for entry in ledger.read(workspace.ledger("scores", part)):
    done |= entry.get("done", {})
  return wanted.items() <= done.items()


class _Scoring:
  """Scores one part after the other, in any process; every clip is noted as soon as it is scored."""

  def __init__(self, workspace: Workspace, names: Sequence[str]):
    self._workspace = workspace
    self._recordings = workspace.recordings()
    self._chosen = operators.chosen(names)
    self._measures = {operator.name: operator.make() for operator in self._chosen}

  def __call__(self, part: int) -> Report:
    report = Report()
    known, _ = entries(self._workspace, part)
    names = []
    with Ledger(self._workspace.ledger("scores", part)) as book:
      for clip in self._recordings.clips(self._recordings.parts[part], report):
        name = clip_name(clip)
        names.append(name)
        if entry := self._entry(clip, name, known.get(name, {"scores": {}})):
          book.append(entry)
      done = versions(self._chosen) | _shots(self._workspace, part)
      book.append({"done": done, "clips": names, "left_out": dict(report.left_out)})
    return report

  def _entry(self, clip: Clip, name: str, known: Entry) -> Entry | None:
    """What is to be noted of a clip; None if all is known."""
    old = known["scores"]
    missing = [operator for operator in self._chosen if old.get(operator.name, {}).get("version") != operator.version]
    signed = known.get("signature", {}).get("version") == hashing.VERSION
    if not missing and signed:
      return None
    view = View(clip)
    scores = {operator.name: self._score(operator, view) for operator in missing}
    first = view.video
    entry = {
      "clip": name,
      "scores": scores,
      "source": clip.source,
      "embodiment": clip.embodiment,
      "seconds": len(first) / clip.video_fps,
      "pixels": clip.provenance.get("height", first.shape[1]) * clip.provenance.get("width", first.shape[2]),
      "caption": clip.caption,
      "instruction": clip.instruction,
      "robot": bool(embodiments.get(clip.embodiment).action),
    }
    if not signed:
      entry["signature"] = {"version": hashing.VERSION, "hashes": hashing.to_text(hashing.signature(view))}
    return entry

  def _score(self, operator: operators.Operator, view: View) -> Entry:
    try:
      value = self._measures[operator.name](view)
    except Exception as error:  # of a library, on a picture that it did not expect; the clip is then rejected
      return {"version": operator.version, "error": f"{type(error).__name__}: {error}"[:300]}
    return {"version": operator.version, "score": value if value is None else round(float(value), 6)}
