"""An HTML page of clips: frames, captions, every decision with its score, actions; filtered in the browser.

The page is one file without scripts from elsewhere. All text in it comes from data, and is escaped.
"""

import base64
import dataclasses
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Float32
from PIL import Image

from data_pipelines.curation import caption, decide
from data_pipelines.curation.operators.view import View
from data_pipelines.curation.workspace import Workspace, clip_name
from data_pipelines.records import Clip
from data_pipelines.sources import Report
from kairos_jax import files
from kairos_jax.locations import Location

_HEIGHT = 96  # pixels of a frame
_PLOT = (240, 60)  # width and height
_COLORS = ("#1b6ca8", "#c8553d", "#588157", "#8e5572", "#b08900", "#3d405b", "#e07a5f", "#2a9d8f")


@dataclasses.dataclass(frozen=True)
class Chosen:
  """Which clips are shown: kept ones, rejected ones or both; those of a node of the taxonomy; at most so many."""

  show: str = "all"
  node: str = ""
  clips: int = 60

  def __call__(self, decision: Mapping[str, Any]) -> bool:
    """Whether a decision's clip is one of them."""
    kind = self.show == "all" or decision["keep"] == (self.show == "kept")
    return kind and f"{decision['taxonomy']}/".startswith(f"{self.node}/" if self.node else "")


def write(workspace: Workspace, path: str | Location, chosen: Chosen) -> int:
  """Writes the page of the chosen clips, spread evenly over all that would do; gives how many they are.

  Frames are read from the raw data again.
  """
  fitting = sum(map(chosen, decide.read(workspace)))
  wanted: dict[int, dict[str, Any]] = {}
  step, seen = max(1.0, fitting / chosen.clips), 0
  for decision in filter(chosen, decide.read(workspace)):
    if int(seen / step) != int((seen - 1) / step) or seen == 0:
      wanted.setdefault(decision["part"], {})[decision["clip"]] = decision
    seen += 1
  cards = list(_cards(workspace, wanted))
  page = _page().render(cards=cards, fitting=fitting, title=Path(workspace.path).name)
  with files.replaced(path) as partial:
    Path(partial).write_text(page, encoding="utf-8")
  return len(cards)


def _cards(workspace: Workspace, wanted: Mapping[int, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
  recordings = workspace.recordings()
  for part, decisions in wanted.items():
    captions = caption.entries(workspace, part)
    for clip in recordings.clips(recordings.parts[part], Report()):
      if decision := decisions.get(name := clip_name(clip)):
        noted = captions.get(name, {})
        yield {
          **decision,
          "strip": _strip(clip),
          "caption": noted.get("caption") or clip.caption,
          "instruction": noted.get("instruction") or clip.instruction,
          "judged": noted.get("judged"),
          "plot": plot(clip.action) if clip.action.size else "",
        }


def _strip(clip: Clip) -> str:
  """Five frames side by side, as a data URL."""
  frames = [Image.fromarray(still) for still in View(clip).stills]
  size = max(1, round(frames[0].width * _HEIGHT / frames[0].height)), _HEIGHT
  strip = np.concatenate([np.asarray(frame.resize(size, Image.Resampling.BILINEAR)) for frame in frames], axis=1)
  out = io.BytesIO()
  Image.fromarray(strip).save(out, "JPEG", quality=80)
  return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def plot(actions: Float32[np.ndarray, "N A"]) -> str:
  """Lines of all entries over time as SVG, each in its own range."""
  width, height = _PLOT
  low, high = actions.min(axis=0), actions.max(axis=0)
  levels = (actions - low) / np.where(high > low, high - low, 1)
  x = np.linspace(0, width, len(actions))
  lines = []
  for entry in range(actions.shape[1]):
    y = height - levels[:, entry] * height
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    color = _COLORS[entry % len(_COLORS)]
    lines.append(f'<polyline fill="none" stroke="{color}" stroke-width="1" points="{points}"/>')
  return f'<svg width="{width}" height="{height}" role="img" aria-label="actions">{"".join(lines)}</svg>'


def _page() -> jinja2.Template:
  environment = jinja2.Environment(autoescape=True, trim_blocks=True)
  return environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
