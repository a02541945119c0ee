"""Decisions: from scores to a list of what is kept, and why not; made anew whenever bounds change, without a video."""

import collections
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.curation import duplicates, hashing, operators
from data_pipelines.curation.operators import Bounds
from data_pipelines.curation.score import Entry, entries
from data_pipelines.curation.taxonomy import Taxonomy
from data_pipelines.curation.workspace import Workspace
from data_pipelines.engines import ledger
from kairos_jax import files

DECISIONS = "decisions.jsonl"


@dataclasses.dataclass(frozen=True)
class Rules:
  """What is decided by.

  Attributes:
    operators: whose scores count.
    bounds: instead of an operator's own.
    copies: when two clips are the same; None keeps copies.
  """

  operators: Sequence[str] = operators.DEFAULT
  bounds: Mapping[str, Bounds] = dataclasses.field(default_factory=dict)
  copies: duplicates.Rule | None = duplicates.Rule()

  def of(self, name: str) -> Bounds:
    """The bounds of an operator."""
    return self.bounds.get(name, operators.OPERATORS[name].bounds)


def decide(workspace: Workspace, rules: Rules, taxonomy: Taxonomy | None = None) -> collections.Counter[str]:
  """Writes `decisions.jsonl`: a line for every clip, in the order of the data.

  Copies are looked for among the clips that all operators keep. What is held in memory of a clip is its name, its size
  and its hashes, some 2 KB.

  Returns:
    Clips by what became of them: "kept", and each operator that rejected some, the first one in order.
  """
  taxonomy = taxonomy or Taxonomy.read()
  parts = len(workspace.recordings().parts)
  names, quality, hashes = list[str](), list[tuple[float, float]](), list[np.ndarray]()
  for name, entry in _all(workspace, parts):
    if rules.copies and all(verdict["keep"] for verdict in _verdicts(entry, rules)):
      names.append(name)
      quality.append((entry["pixels"], entry["seconds"]))
      hashes.append(hashing.from_text(entry["signature"]["hashes"]))
  copies: dict[str, Entry] = {}
  if rules.copies and names:
    starts = np.cumsum([0, *map(len, hashes)])
    for match in duplicates.find(np.concatenate(hashes), starts, np.array(quality), rules.copies):
      copies[names[match.copy]] = {"copy_of": names[match.kept], "score": round(match.bits, 3)}
  del hashes

  counts: collections.Counter[str] = collections.Counter()
  with files.replaced(workspace.folder / DECISIONS) as partial, Path(partial).open("w", encoding="utf-8") as file:
    for name, entry in _all(workspace, parts):
      verdicts = _verdicts(entry, rules)
      if rules.copies:
        verdicts.append(_copy_verdict(copies.get(name), rules.copies))
      place = taxonomy.place(f"{entry['caption']} {entry['instruction']}", "Robot" if entry["robot"] else "General")
      refused = [verdict for verdict in verdicts if not verdict["keep"]]
      counts[refused[0]["operator"] if refused else "kept"] += 1
      decided = {
        "clip": name,
        "part": entry["part"],
        "keep": not refused,
        "decisions": verdicts,
        "taxonomy": taxonomy.path(place.node),
        "attributes": place.attributes,
        "seconds": entry["seconds"],
        "source": entry["source"],
      }
      file.write(json.dumps(decided, ensure_ascii=False, sort_keys=True) + "\n")
  return counts


def read(workspace: Workspace) -> Iterator[Entry]:
  """The decisions, in order; none before `decide`."""
  return ledger.read(workspace.folder / DECISIONS)


def digest(workspace: Workspace) -> str:
  """Of the decisions as a whole."""
  return files.sha256(workspace.folder / DECISIONS)


def _all(workspace: Workspace, parts: int) -> Iterator[tuple[str, Entry]]:
  for part in range(parts):
    for name, entry in entries(workspace, part)[0].items():
      yield name, {**entry, "part": part}


def _verdicts(entry: Mapping[str, Any], rules: Rules) -> list[Entry]:
  """One for each operator that has scored the clip."""
  verdicts = []
  for name in rules.operators:
    if (scored := entry["scores"].get(name)) is None:
      continue
    low, high = rules.of(name)
    verdict = {"operator": name, "version": scored["version"], "threshold": [low, high]}
    if "error" in scored:
      verdicts.append({**verdict, "score": None, "keep": False, "reason": scored["error"]})
      continue
    keep = operators.within(scored["score"], (low, high))
    verdicts.append({**verdict, "score": scored["score"], "keep": keep})
  return verdicts


def _copy_verdict(copy: Entry | None, rule: duplicates.Rule) -> Entry:
  verdict = {"operator": "duplicate", "version": duplicates.VERSION, "threshold": [None, rule.bits]}
  return {**verdict, "score": None, "keep": True} if copy is None else {**verdict, **copy, "keep": False}
