"""The loop, for many prompts at once, and as many rollouts of what the users said.

What a user gets of either is the one video that the loop's own scores find best. The report also has a score that the
loop never saw. Every round is a file, so a run that was killed goes on.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from kairos_jax import console, files, runtime, seeds
from kairos_jax.evaluation import rollout
from kairos_jax.evaluation.intervals import mean_interval
from kairos_jax.evolution.prompts import page, wishes
from kairos_jax.evolution.prompts.rewriters import Rewriter
from kairos_jax.evolution.prompts.tree import PARTS, Critique, Tree, best, grown
from kairos_jax.evolution.prompts.wishes import Problem
from kairos_jax.interfaces import num_frames
from kairos_jax.runtime import WorldModel
from kairos_jax.training import claim_workdir

_LATENTS = 12  # that are imagined after the first
_AT_ONCE = 8  # prompts
_STILLS = 5
_MEASURED = (*PARTS, "reward")
_WAYS = ("aligned", "best of as many")

Imagine = Callable[[Sequence[str], int], UInt8[np.ndarray, "P N T H W 3"]]


@dataclasses.dataclass(frozen=True)
class Alignment:
  """What a run does.

  Attributes:
    model: folder of the model that imagines.
    prompts: users' wishes.
    rounds: of rewriting.
    samples: videos of each prompt.
    rewriter: its name.
    guidance: of the videos, away from those without words; 1 is none.
    seed: of all that chance decides.
  """

  model: str
  prompts: int = 32
  rounds: int = 4
  samples: int = 2
  rewriter: str = "slots"
  guidance: float = 1.0
  seed: int = 0


def align(run: Alignment, rewriter: Rewriter, workdir: Path) -> dict[str, Any]:
  """Runs what is left and returns the report, which is also `report.json`; `index.html` shows the trees.

  Raises:
    KairosError: the folder belongs to another run, the model is not there, or the rewriter gives no prompt.
  """
  with claim_workdir(workdir, dataclasses.asdict(run)):
    model = runtime.load(run.model)
    frames = _LATENTS * num_frames(model.codec, 1, begins=False)
    given = wishes.problems(run.prompts, model.saved.frame_size[0], num_frames(model.codec, 1), frames, run.seed)
    seen = np.stack([one.seen for one in given])

    def imagine(prompts: Sequence[str], number: int) -> UInt8[np.ndarray, "P N T H W 3"]:
      seed = seeds.derive(run.seed, "aligned", number)
      return _imagined(model, seen, prompts, run.samples, run.guidance, seed)

    with console.progress("rounds", 2 * (run.rounds + 1)) as bar:
      trees, aligned = loop(given, imagine, rewriter, run.rounds, run.seed, workdir / "rounds", bar.update)
      said = [one.said for one in given]
      again = []
      for number in range(run.rounds + 1, 2 * (run.rounds + 1)):  # with noise of its own
        again.append(_kept(workdir / "original" / f"{number}.npz", functools.partial(imagine, said, number)))
        bar.update(number + 1)
    original = np.concatenate(again, axis=1)
    report = {"run": dataclasses.asdict(run), **_compared(given, aligned, original)}
    report["prompts"] = [
      dict(said=one.said, aligned=tree[best(tree)].prompt) for one, tree in zip(given, trees, strict=True)
    ]
    files.write_json(workdir / "report.json", report)
    page.write(workdir, trees, aligned, original, model.saved.video_fps)
    return report


def loop(
  given: Sequence[Problem],
  imagine: Imagine,
  rewriter: Rewriter,
  rounds: int,
  seed: int,
  folder: Path,
  progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[Tree], UInt8[np.ndarray, "P N T H W 3"]]:
  """Rolls out what the users said, and then in each round one other prompt for each of them.

  Returns:
    (trees, videos): of each problem what was tried, and all videos of that, in the trees' order.
  """
  trees: list[Tree] = [[] for _ in given]
  videos: list[UInt8[np.ndarray, "P N T H W 3"]] = []
  for number in range(rounds + 1):
    place = folder / f"{number}.json"
    if not place.exists():
      files.write_json(place, _proposed(given, trees, videos, rewriter, seed, number))
    proposed = json.loads(place.read_text())
    rolled = functools.partial(imagine, [prompt for prompt, _ in proposed], number)
    videos.append(_kept(folder / f"{number}.npz", rolled))
    for which, (problem, (prompt, parent)) in enumerate(zip(given, proposed, strict=True)):
      critiques = [wishes.judged(problem, video) for video in videos[-1][which]]
      trees[which] = grown(trees[which], prompt, parent, critiques)
    progress(number + 1)
  return trees, np.concatenate(videos, axis=1)


def _proposed(
  given: Sequence[Problem],
  trees: Sequence[Tree],
  videos: Sequence[UInt8[np.ndarray, "P N T H W 3"]],
  rewriter: Rewriter,
  seed: int,
  number: int,
) -> list[tuple[str, int | None]]:
  if not number:
    return [(problem.said, None) for problem in given]
  proposed: list[tuple[str, int | None]] = []
  for which, tree in enumerate(trees):
    node = best(tree)
    video = videos[node][which, int(np.argmax(tree[node].rewards))]
    stills = video[np.linspace(0, len(video) - 1, _STILLS).astype(int)]
    proposed.append(rewriter.rewrite(tree, stills, np.random.default_rng(seeds.derive(seed, "rewrite", number, which))))
  return proposed


def _kept(path: Path, make: Callable[[], UInt8[np.ndarray, "P N T H W 3"]]) -> UInt8[np.ndarray, "P N T H W 3"]:
  if not path.exists():
    with files.replaced(path) as partial:
      np.savez_compressed(partial, videos=make())
  return np.load(path)["videos"]


def _imagined(
  model: WorldModel,
  seen: UInt8[np.ndarray, "P S H W 3"],
  prompts: Sequence[str],
  samples: int,
  guidance: float,
  seed: int,
) -> UInt8[np.ndarray, "P N T H W 3"]:
  frames = _LATENTS * num_frames(model.codec, 1, begins=False)
  made = []
  for first in range(0, len(seen), _AT_ONCE):
    chunk = slice(first, first + _AT_ONCE)
    part = seeds.derive(seed, first)
    made.append(rollout.samples(model, seen[chunk], prompts[chunk], frames, samples, part, guidance))
  return np.concatenate(made)


def _compared(
  given: Sequence[Problem],
  aligned: UInt8[np.ndarray, "P M T H W 3"],
  original: UInt8[np.ndarray, "P M T H W 3"],
) -> dict[str, Any]:
  """The video that each way would hand out, by what the loop was told and by what it was not."""
  found = {}
  for name, videos in zip(_WAYS, (aligned, original), strict=True):
    critiques = [[wishes.judged(one, video) for video in some] for one, some in zip(given, videos, strict=True)]
    picked = [int(np.argmax([critique.reward for critique in some])) for some in critiques]
    chosen = [some[which] for some, which in zip(critiques, picked, strict=True)]
    hidden = [wishes.unseen(one, some[[which]])[0] for one, some, which in zip(given, videos, picked, strict=True)]
    found[name] = {**_parts(chosen), "unseen": np.array(hidden)}
  return {
    "rollouts": int(aligned.shape[1]),
    "measures": {
      part: {
        **{name: float(values[part].mean()) for name, values in found.items()},
        "difference": list(mean_interval(found[_WAYS[0]][part] - found[_WAYS[1]][part])),
      }
      for part in (*_MEASURED, "unseen")
    },
  }


def _parts(critiques: Sequence[Critique]) -> dict[str, Float[np.ndarray, "P"]]:
  return {part: np.array([getattr(one, part) for one in critiques]) for part in _MEASURED}


def show(report: dict[str, Any]) -> None:
  """Prints the report as a table."""
  rows, names = [], {"reward": "mean of the three", "unseen": "like the simulator's own, dB: never seen"}
  for part, row in report["measures"].items():
    value, low, high = row["difference"]
    means = (f"{row[way]:.3f}" for way in _WAYS)
    rows.append([names.get(part, part), *means, f"{value:+.3f} ({low:+.3f} to {high:+.3f})"])
  console.show_table(["measure", *_WAYS, "difference over wishes"], rows)
  console.show(f"{report['run']['prompts']} wishes, {report['rollouts']} rollouts of each, either way")
