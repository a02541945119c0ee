"""Films of what a round changed: held-out episodes that it newly solved or lost, before and after it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from kairos_jax import media, runtime
from kairos_jax.evaluation.comparison import ENTRIES, Arena, episode_seeds, task_name
from kairos_jax.evaluation.record import EpisodeRecord, Kept
from kairos_jax.evolution.rounds import Evolution, base_of, refined_in
from kairos_jax.interop import saved_model
from kairos_jax.runtime import WorldModel

MOST = 4  # episodes of each kind in a film
_SOLVED, _FAILED = (60, 170, 90), (200, 60, 60)  # of the frame around an episode
_BORDER = 2  # pixels


class Changed(NamedTuple):
  """Held-out episodes, by their seeds, that end otherwise after a round than before it."""

  solved: list[int]
  lost: list[int]


def changed(before: Mapping[int, Kept], after: Mapping[int, Kept]) -> Changed:
  """Of the episodes that both have run."""
  both = [seed for seed in before if seed in after and before[seed].success != after[seed].success]
  return Changed([seed for seed in both if after[seed].success], [seed for seed in both if before[seed].success])


def write(run: Evolution, workdir: Path, rounds: Sequence[Mapping[str, object]]) -> list[Path]:
  """Writes round_N/changed.mp4 for each round that changed an episode and has none yet; all that are there.

  Above is the policy as it began the round, below as it came out of it. At the left is what was newly solved, at most
  `MOST` episodes, then what was newly lost; green is around a success.

  Args:
    run: that has ended.
    workdir: its folder.
    rounds: of its report.
  """
  best, record, there = base_of(run), EpisodeRecord(workdir / "evaluation.jsonl"), []
  for one in rounds:
    home = workdir / f"round_{one['round']}"
    path, refined = home / "changed.mp4", refined_in(home)
    if not path.exists():
      models = [runtime.load(folder) for folder in (best, refined)]
      found = changed(*(_ended(model, run, record) for model in models))
      seeds = [*found.solved[:MOST], *found.lost[:MOST]]
      if seeds:
        videos = [video for model in models for video in _videos(model, run, seeds)]
        media.write_mp4(path, media.mosaic(videos, len(seeds)), models[0].saved.video_fps)
    there += [path] if path.exists() else []
    best = refined if one["accepted"] else best
  return there


def _ended(model: WorldModel, run: Evolution, record: EpisodeRecord) -> dict[int, Kept]:
  entry = ENTRIES["model"]
  kept = record.kept(saved_model.content_hash(model.saved), entry.policy, task_name(run.env, entry))
  return {seed: kept[seed] for seed in episode_seeds(run.held_out, run.seed, run.env) if seed in kept}


def _videos(model: WorldModel, run: Evolution, seeds: Sequence[int]) -> list[UInt8[np.ndarray, "_ H W 3"]]:
  """Each episode once more, with a frame around it that tells how it ended."""
  ended = {one.seed: one for one in Arena(model, run.env, run.held_out).play(ENTRIES["model"], seeds)}
  return [_framed(ended[seed].video(), _SOLVED if ended[seed].success else _FAILED) for seed in seeds]


def _framed(video: UInt8[np.ndarray, "T H W 3"], color: tuple[int, int, int]) -> UInt8[np.ndarray, "T h w 3"]:
  out = np.empty((len(video), video.shape[1] + 2 * _BORDER, video.shape[2] + 2 * _BORDER, 3), np.uint8)
  out[:] = color
  out[:, _BORDER:-_BORDER, _BORDER:-_BORDER] = video
  return out
