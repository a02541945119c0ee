"""Pack: the kept clips with their captions as shards, read from the raw data once more; see `sources.build`."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from data_pipelines.curation import caption, decide
from data_pipelines.curation.workspace import Workspace, clip_name
from data_pipelines.engines.base import Engine
from data_pipelines.engines.pool import HERE
from data_pipelines.records import Clip
from data_pipelines.sources import Recordings, Report
from data_pipelines.sources.build import build
from kairos_jax.errors import KairosError
from kairos_jax.locations import Location


def pack(
  workspace: Workspace,
  folder: str | Location,
  name: str,
  least: float = 0.5,
  engine: Engine = HERE,
  on_part: Callable[[int, Report], None] = lambda done, report: None,
  compressed: bool = True,
) -> Report:
  """Writes a dataset of the clips that are kept and, where a judge has read their caption, whose score is enough.

  Ended at any moment, it goes on; the bytes are those of one run, and depend on the decisions and captions alone.

  Args:
    workspace: that is decided.
    folder: of the dataset.
    name: of the dataset.
    least: score of a judge.
    engine: that does the work.
    on_part: called with the number of parts done and the report so far.
    compressed: see `shards.write_shard`.

  Raises:
    KairosError: nothing is decided or kept, or the folder holds something else.
  """
  if not any(entry["keep"] for entry in decide.read(workspace)):
    raise KairosError(f"{workspace.folder} keeps no clip: kairos data curate decides, kairos data stats says why not")
  recipe = {
    "curation": workspace.recipe(),
    "decisions": decide.digest(workspace),
    "captions": _digest(workspace),
    "least": least,
  }
  reopen = Kept(workspace, least)
  return build(reopen(), folder, name, recipe, on_part, reopen, engine, compressed)


def parts(workspace: Workspace) -> int:
  """How many parts packing reads."""
  return len(workspace.recordings().parts)


@dataclasses.dataclass(frozen=True)
class Kept:
  """Opens the kept clips, in any process."""

  workspace: Workspace
  least: float

  def __call__(self) -> "KeptClips":
    return KeptClips(self.workspace, self.least)


class KeptClips(Recordings):
  """The clips that are kept, with their captions; those that are not kept are no loss, and in no report."""

  def __init__(self, workspace: Workspace, least: float):
    super().__init__(workspace.clip_reader(), workspace.cut)
    self._workspace, self._least, self._raw = workspace, least, self.parts
    self.parts = range(len(self._raw))
    self._keep: dict[int, dict[str, Any]] = {}  # by part and clip: what the clip's provenance takes from its decision
    for entry in decide.read(workspace):
      if entry["keep"]:
        scores = {d["operator"]: d["score"] for d in entry["decisions"] if d["score"] is not None}
        noted = {"taxonomy": entry["taxonomy"], "scores": scores}
        self._keep.setdefault(entry["part"], {})[entry["clip"]] = noted

  def clips(self, part: int, report: Report) -> Iterator[Clip]:
    """Those of one part; a caption that a judge finds too bad is counted as left out."""
    kept = self._keep.get(part)
    if not kept:
      return
    captions = caption.entries(self._workspace, part)
    for clip in super().clips(self._raw[part], report):
      clip_id = clip_name(clip)
      noted = captions.get(clip_id, {})
      if clip_id not in kept or noted.get("judged", {"score": 1.0})["score"] < self._least:
        report.clips -= 1
        if clip_id in kept:
          report.left_out["bad caption"] += 1
        continue
      yield dataclasses.replace(
        clip,
        caption=noted.get("caption", clip.caption),
        instruction=noted.get("instruction", "") or clip.instruction,
        provenance={**clip.provenance, "clip": clip_id, **kept[clip_id]},
      )


def _digest(workspace: Workspace) -> str:
  """Of the captions that are in force, in whatever order they came."""
  total = hashlib.sha256()
  for part in range(parts(workspace)):
    for name, entry in sorted(caption.entries(workspace, part).items()):
      said = [name, entry.get("caption"), entry.get("instruction"), entry.get("judged", {}).get("score")]
      total.update(json.dumps(said).encode())
  return total.hexdigest()
