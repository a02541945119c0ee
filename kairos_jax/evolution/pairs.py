"""Pairs of imagined videos: rollouts of one prompt are ranked by a score or by people, and two of them lie together.

A prompt is the beginning of an episode of the embedded simulator and its instruction. The rollouts of a few prompts are
one file, so a run that was killed goes on.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.records import Clip
from data_pipelines.simulate.filming import simulated_clip
from kairos_jax import console, files, media, seeds
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import foresight, rollout
from kairos_jax.evaluation.scene_scores import SCORES, Imagined
from kairos_jax.interfaces import num_frames
from kairos_jax.runtime import WorldModel

_CHUNK = 8  # prompts at once
_PAGE = Path(__file__).with_name("choices.html")
SOURCE = "pairs"


class Rollouts(NamedTuple):
  """Of P prompts: what was seen, what came in truth, the instructions, and N videos of each."""

  seen: UInt8[np.ndarray, "P S H W 3"]
  future: UInt8[np.ndarray, "P T H W 3"]
  instructions: list[str]
  videos: UInt8[np.ndarray, "P N T H W 3"]

  def scores(self, name: str) -> Float[np.ndarray, "P N"]:
    """What one of `SCORES` says of each video."""
    every = zip(self.seen, self.videos, self.future, strict=True)
    return np.array([[SCORES[name](Imagined(s, video, f)) for video in videos] for s, videos, f in every])


def imagine(model: WorldModel, prompts: int, samples: int, seed: int, folder: Path) -> Rollouts:
  """Rolls out each prompt that `seed` gives; what lies in the folder is not run again.

  Raises:
    KairosError: the model does not imagine the simulator's clips, see `foresight.unseen_clips`.
  """
  clips, instructions = foresight.unseen_clips(model, prompts, seed)
  seen, future = np.split(clips, [num_frames(model.codec, foresight.SEEN)], axis=1)
  with console.progress("imagined", prompts) as bar:
    for first in range(0, prompts, _CHUNK):
      path = folder / f"{first:06d}.npz"
      if not path.exists():
        chunk = slice(first, first + _CHUNK)
        videos = rollout.samples(
          model, seen[chunk], instructions[chunk], future.shape[1], samples, seeds.derive(seed, first)
        )
        with files.replaced(path) as partial:
          np.savez_compressed(partial, videos=videos)
      bar.update(min(prompts, first + _CHUNK))
  paths = [folder / f"{first:06d}.npz" for first in range(0, prompts, _CHUNK)]
  return Rollouts(seen, future, instructions, np.concatenate([np.load(path)["videos"] for path in paths]))


def film(rollouts: Rollouts, folder: Path, fps: float) -> Path:
  """Writes a video for each prompt, its rollouts beside each other, and the page on which people choose; returns it."""
  folder.mkdir(parents=True, exist_ok=True)
  prompts = []
  for number, (videos, instruction) in enumerate(zip(rollouts.videos, rollouts.instructions, strict=True)):
    prompts.append({"film": f"{number:06d}.mp4", "instruction": instruction})
    media.write_mp4(folder / prompts[-1]["film"], media.mosaic(list(videos), len(videos)), fps)
  template = jinja2.Environment(autoescape=True).from_string(_PAGE.read_text(encoding="utf-8"))
  with files.replaced(folder / "index.html") as partial:
    Path(partial).write_text(template.render(prompts=prompts, samples=rollouts.videos.shape[1]), encoding="utf-8")
  return folder / "index.html"


def ranked(scores: Float[np.ndarray, "P N"]) -> list[tuple[int, int, int]]:
  """(prompt, best, worst) of each prompt whose rollouts differ."""
  rows = enumerate(scores)
  return [(prompt, int(row.argmax()), int(row.argmin())) for prompt, row in rows if row.max() > row.min()]


def chosen(path: Path, prompts: int, samples: int) -> list[tuple[int, int, int]]:
  """(prompt, better, worse) of each line of a CSV with the columns prompt, winner and loser, counted from 0.

  Raises:
    KairosError: a column is missing, or a number is no prompt's or no rollout's.
  """
  with open(path, newline="") as file:
    lines = csv.DictReader(file)
    if missing := {"prompt", "winner", "loser"} - set(lines.fieldnames or ()):
      raise KairosError(f"{path} has no column {min(missing)}; allowed: prompt, winner, loser")
    found = []
    for number, line in enumerate(lines, 2):
      try:
        prompt, winner, loser = int(line["prompt"]), int(line["winner"]), int(line["loser"])
      except (TypeError, ValueError):
        raise KairosError(f"{path}, line {number}: prompt, winner and loser must be whole numbers") from None
      if not 0 <= prompt < prompts or winner == loser or not {winner, loser} <= set(range(samples)):
        allowed = f"prompts to {prompts - 1}, and two of the rollouts 0 to {samples - 1}"
        raise KairosError(f"{path}, line {number}: prompt {prompt}, {winner} over {loser}; allowed: {allowed}")
      found.append((prompt, winner, loser))
    return found


def clips(rollouts: Rollouts, pairs: Sequence[tuple[int, int, int]]) -> Iterator[Clip]:
  """A clip for each pair: the winner on the left, the loser on the right, what was seen before both."""
  for prompt, winner, loser in pairs:
    halves = [np.concatenate([rollouts.seen[prompt], rollouts.videos[prompt, number]]) for number in (winner, loser)]
    yield simulated_clip(
      list(np.concatenate(halves, axis=2)),
      source=SOURCE,
      embodiment="none",
      caption=rollouts.instructions[prompt],
      instruction=rollouts.instructions[prompt],
    )
