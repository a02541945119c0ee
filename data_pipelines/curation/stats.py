"""What a curation has kept and why not the rest, in numbers."""

import collections
import dataclasses

import numpy as np

from data_pipelines.curation import decide, operators, score
from data_pipelines.curation.workspace import Workspace


@dataclasses.dataclass(frozen=True)
class Stats:
  """Of a whole curation.

  Attributes:
    videos: by what became of them: "segmented", or why they are rejected.
    left_out: of the clips that could not be read, by reason.
    clips, seconds: by source, of those kept and of all.
    rejected: clips by operator, each at the first that rejects it; with all that reject it beside.
    scores: of each operator: clips, and the quantiles 1, 25, 50, 75 and 99 %.
    taxonomy: kept clips by node.
  """

  videos: collections.Counter[str]
  left_out: collections.Counter[str]
  clips: dict[str, tuple[int, int]]
  seconds: dict[str, tuple[float, float]]
  rejected: dict[str, tuple[int, int]]
  scores: dict[str, tuple[int, list[float]]]
  taxonomy: collections.Counter[str]


def collect(workspace: Workspace) -> Stats:
  """Reads all ledgers once."""
  videos, left_out, taxonomy = (collections.Counter[str]() for _ in range(3))
  parts = len(workspace.reader().parts)
  for part in range(parts):
    if workspace.segmented:
      noted = workspace.shots(part)
      videos[noted.get("rejected", "segmented") if noted else "not segmented yet"] += 1
    left_out.update(score.entries(workspace, part)[1])
  clips: dict[str, list[int]] = {}
  seconds: dict[str, list[float]] = {}
  first, every = collections.Counter[str](), collections.Counter[str]()
  values: dict[str, list[float]] = {}
  for entry in decide.read(workspace):
    count, time = clips.setdefault(entry["source"], [0, 0]), seconds.setdefault(entry["source"], [0.0, 0.0])
    count[0] += entry["keep"]
    count[1] += 1
    time[0] += entry["seconds"] * entry["keep"]
    time[1] += entry["seconds"]
    refused = [verdict["operator"] for verdict in entry["decisions"] if not verdict["keep"]]
    first.update(refused[:1])
    every.update(refused)
    for verdict in entry["decisions"]:
      if verdict["score"] is not None and verdict["operator"] in operators.OPERATORS:
        values.setdefault(verdict["operator"], []).append(verdict["score"])
    if entry["keep"]:
      taxonomy[entry["taxonomy"]] += 1
  return Stats(
    videos,
    left_out,
    {source: (kept, all_) for source, (kept, all_) in clips.items()},
    {source: (kept, all_) for source, (kept, all_) in seconds.items()},
    {name: (first[name], every[name]) for name in sorted(every)},
    {name: (len(own), np.quantile(own, [0.01, 0.25, 0.5, 0.75, 0.99]).tolist()) for name, own in values.items()},
    taxonomy,
  )
