"""The trees on a page of one file, beside the videos of every prompt that was tried."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import UInt8

from kairos_jax import files, media
from kairos_jax.evolution.prompts.tree import Tree, best


def write(
  folder: Path,
  trees: Sequence[Tree],
  aligned: UInt8[np.ndarray, "P M T H W 3"],
  original: UInt8[np.ndarray, "P M T H W 3"],
  fps: float,
) -> Path:
  """Writes FOLDER/index.html and FOLDER/films, and returns the page.

  Args:
    folder: of the run.
    trees: what was tried.
    aligned: all its videos, prompt after prompt.
    original: as many videos of what the users said.
    fps: of the videos.
  """
  (folder / "films").mkdir(exist_ok=True)
  problems = []
  for which, tree in enumerate(trees):
    nodes: list[dict[str, Any]] = []
    for place, (node, videos) in enumerate(zip(tree, np.split(aligned[which], len(tree)), strict=True)):
      film = f"films/{which:03d}_{place}.mp4"
      media.write_mp4(folder / film, media.mosaic(list(videos), len(videos)), fps)
      nodes.append({"place": place, "node": node, "film": film, "best": place == best(tree)})
    film = f"films/{which:03d}_original.mp4"
    media.write_mp4(folder / film, media.mosaic(list(original[which]), len(original[which])), fps)
    problems.append({"nodes": nodes, "original": film})
  template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
  )
  with files.replaced(folder / "index.html") as partial:
    Path(partial).write_text(template.render(problems=problems), encoding="utf-8")
  return folder / "index.html"
