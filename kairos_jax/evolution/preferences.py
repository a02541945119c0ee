"""A video tower that learns what is preferred: rollouts, pairs, Flow-DPO, and what it did to what was not asked for.

The report has held-out prompts, of which no pair was made for training. All scores are measured there before and
after, the one that ranked the pairs and those that the loop never saw, beside motion, sharpness and diversity: a score
is easily won by videos that stand still, blur or are all alike.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import shards
from kairos_jax import console, files, runtime, seeds
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import foresight, scene_scores
from kairos_jax.evaluation.intervals import mean_interval, wilson
from kairos_jax.evolution import pairs, refine
from kairos_jax.evolution.pairs import Rollouts
from kairos_jax.flow.objective import Objective, ObjectiveConfig
from kairos_jax.flow.objectives.preference import FlowDPO
from kairos_jax.flow.objectives.towers import VideoNetworks
from kairos_jax.interop.saved_model import SavedModel
from kairos_jax.model import WorldActionModel
from kairos_jax.training import claim_workdir, curriculum
from kairos_jax.training.improving import halves

_DRAWS, _AT_ONCE = 16, 16  # noise levels of a held-out pair, and pairs at once


@dataclasses.dataclass(frozen=True)
class Preferences:
  """What a run does.

  Attributes:
    model: folder of the model that it begins with.
    data: a dataset that the model was trained on, which tells sizes and units.
    score: that ranks rollouts, one of `scene_scores.SCORES`.
    choices: CSV of people's choices between them in its place, see `pairs.chosen`.
    prompts, held_out: for training, and for the report.
    samples: rollouts of each prompt, 2 or more.
    steps: of the training.
    learning_rate: likewise.
    beta: of Flow-DPO's loss.
    seed: of all that chance decides.
  """

  model: str
  data: str
  score: str = "arm"
  choices: str | None = None
  prompts: int = 256
  held_out: int = 64
  samples: int = 4
  steps: int = 200
  learning_rate: float = 7e-6
  beta: float = 100.0
  seed: int = 0


def prefer(run: Preferences, workdir: Path) -> dict[str, Any]:
  """Runs what is left and returns the report, which is also `report.json`; the model is in train/model.

  Raises:
    KairosError: the folder belongs to another run, the choices are not there or not allowed, no two rollouts differ, or
      the model does not imagine the simulator's clips.
  """
  with claim_workdir(workdir, dataclasses.asdict(run)):
    model = runtime.load(run.model)
    train = pairs.imagine(model, run.prompts, run.samples, seeds.derive(run.seed, "pairs"), workdir / "rollouts")
    if run.choices is None:
      chosen = pairs.ranked(train.scores(run.score))
    else:
      chosen = _chosen(run, train, workdir, model.saved.video_fps)
    if not chosen:
      raise KairosError(f"no two of the {run.samples} rollouts of a prompt differ in {run.score}; there is no pair")
    _write(train, chosen, Path(run.data), workdir / "data")
    seed = seeds.derive(run.seed, "preferences") % 2**31
    refined = curriculum.run(_training(run, model.saved, workdir / "data", seed), workdir / "train")
    held = seeds.derive(run.seed, "held out")
    before = pairs.imagine(model, run.held_out, run.samples, held, workdir / "before")
    tuned = runtime.load(refined)
    after = pairs.imagine(tuned, run.held_out, run.samples, held, workdir / "after")
    report = {"run": dataclasses.asdict(run), "pairs": len(chosen), **_compared(before, after)}
    if unseen := pairs.ranked(before.scores(run.score)):
      report |= preferred(model.saved, tuned.saved, before, unseen)
    files.write_json(workdir / "report.json", report)
    return report


def preferred(
  before: SavedModel, after: SavedModel, rollouts: Rollouts, chosen: Sequence[tuple[int, int, int]]
) -> dict[str, Any]:
  """How many pairs the tuned model tells as they were ranked, and what became of the winners' own flow loss.

  A pair counts if its winner gained more than its loser, in the mean over noise and levels that are the same for both.

  Returns:
    "accuracy" with its interval of 95 %, and "winners_loss" before and after.
  """
  videos = np.stack([clip.cameras["front"] for clip in pairs.clips(rollouts, chosen)])
  texts = before.encoder.tokenize([rollouts.instructions[prompt] for prompt, *_ in chosen])
  config = ObjectiveConfig(tasks=dict(ti2v=1.0), text_dropout=0.0, **_observed())
  objective = Objective(WorldActionModel(before.model_config), before.encoder, before.codec, config)
  networks = VideoNetworks(objective)

  @jax.jit
  def measure(params: Any, tower: Any, batch: Any) -> Any:
    def once(key: jax.Array) -> Any:
      data_key, key = jax.random.split(key)
      winner, loser = (networks.data(params, half, data_key) for half in halves(batch))
      dpo = FlowDPO(networks.velocity, networks.shift(winner.x.shape))
      return dpo.margins(tower, params["video"], winner, loser, key)

    margins, won = jax.lax.map(once, jax.random.split(jax.random.key(0), _DRAWS))
    return margins.mean(axis=0), won.mean(axis=0)

  found = []
  for first in range(0, len(videos), _AT_ONCE):
    rows = np.arange(first, first + _AT_ONCE) % len(videos)  # the last batch is filled up
    batch = jax.tree.map(lambda x, rows=rows: jnp.asarray(x[rows]), {"video": videos, "tokens": texts})
    batch |= {"length": jnp.full(_AT_ONCE, videos.shape[1])}
    told = [measure(before.params, params["video"], batch) for params in (after.params, before.params)]
    (margins, tuned), (_, old) = told
    found.append(np.stack([margins, old, tuned], axis=1)[: len(videos) - first])
  margin, old, tuned = np.concatenate(found).T
  return {
    "accuracy": list(wilson(int((margin > 0).sum()), len(margin))),
    "winners_loss": {"before": float(old.mean()), "after": float(tuned.mean())},
  }


def _compared(before: Rollouts, after: Rollouts) -> dict[str, Any]:
  """Each measure on the held-out prompts before and after, and the mean difference over prompts with its interval."""
  measures = {name: [x.scores(name).mean(axis=1) for x in (before, after)] for name in scene_scores.SCORES}
  for measure in (scene_scores.motion, scene_scores.sharpness):
    measures[measure.__name__] = [
      np.array([np.mean([measure(video) for video in videos]) for videos in x.videos]) for x in (before, after)
    ]
  measures["diversity"] = [np.array([scene_scores.diversity(videos) for videos in x.videos]) for x in (before, after)]
  return {
    "measures": {
      name: {"before": float(old.mean()), "after": float(new.mean()), "difference": list(mean_interval(new - old))}
      for name, (old, new) in measures.items()
    }
  }


def _chosen(run: Preferences, train: Rollouts, workdir: Path, fps: float) -> list[tuple[int, int, int]]:
  if not Path(str(run.choices)).exists():
    page = pairs.film(train, workdir / "films", fps)
    raise KairosError(f"{run.choices} is not there; open {page} in a browser, choose, and save it")
  return pairs.chosen(Path(str(run.choices)), run.prompts, run.samples)


def _write(train: Rollouts, chosen: Sequence[tuple[int, int, int]], data: Path, folder: Path) -> None:
  refine.link(folder, data)
  if not (folder / pairs.SOURCE / shards.MANIFEST).exists():
    shards.write_shards(pairs.clips(train, chosen), folder / pairs.SOURCE, pairs.SOURCE, refine.PER_SHARD)


def _observed() -> dict[str, Any]:
  return dict(min_observed=foresight.SEEN, max_observed=foresight.SEEN)


def _training(run: Preferences, saved: SavedModel, folder: Path, seed: int) -> Any:
  shares = {refine.TAUGHT: 0.0, pairs.SOURCE: 1.0}
  stage = dict(
    actions=False,
    mixture=dict(start=shares, end=shares),
    crop="start",
    dpo=dict(beta=run.beta, supervised=1.0),
    **_observed(),
  )
  options: dict[str, Any] = dict(steps=run.steps, learning_rate=run.learning_rate, seed=seed)
  return refine.refining(Path(run.model), saved, folder, (refine.TAUGHT, pairs.SOURCE), stage, **options)


def show(report: dict[str, Any]) -> None:
  """Prints the report as a table."""
  run, rows = report["run"], []
  for name, one in report["measures"].items():
    value, low, high = one["difference"]
    seen = "ranked the pairs" if name == run["score"] and run["choices"] is None else ""
    rows.append(
      [name, f"{one['before']:.3f}", f"{one['after']:.3f}", f"{value:+.3f} ({low:+.3f} to {high:+.3f})", seen]
    )
  console.show_table(["measure", "before", "after", "difference over prompts", ""], rows)
  if "accuracy" in report:
    value, low, high = report["accuracy"]
    loss = report["winners_loss"]
    console.show(
      f"held-out pairs told as ranked: {value:.3f} ({low:.3f} to {high:.3f}); the winners' flow loss "
      f"{loss['before']:.4f} before and {loss['after']:.4f} after ({loss['after'] / loss['before'] - 1:+.1%})"
    )
