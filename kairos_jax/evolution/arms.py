"""Ways of getting better beside each other: what each makes of one base, with as many updates, and whether it counts.

An arm runs `rounds.evolve` with one method; the arm "base" runs none. Arms of one seed begin with the same policy,
share its rollouts, and are measured on the same episodes, which no round rolls out and on which none is accepted. The
config names the arm that should win before anything is run.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from kairos_jax import console, runtime, seeds
from kairos_jax.evaluation import cells
from kairos_jax.evaluation.cells import Cell, Row
from kairos_jax.evaluation.comparison import compare
from kairos_jax.evaluation.intervals import Interval, mean_interval
from kairos_jax.evaluation.record import EpisodeRecord
from kairos_jax.evolution.refine import METHODS, Method
from kairos_jax.evolution.rounds import Evolution, evolve
from kairos_jax.interop import saved_model
from kairos_jax.training.parse import Range, parse

BASE = "base"
ARMS = (BASE, *METHODS)
CONTROLS = ("demonstrations", "placebo")
GAIN, WORSE, POSITIVE = 0.08, 0.02, 0.8  # over the better control; between two rounds; the share of seeds
_OWN = ("expected", "seeds", "tested")  # of an experiment, beside what `Evolution` has
Count = Annotated[int, Range(1)]


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What the key `evolution` of a config holds.

  Attributes:
    expected: the arm that should win.
    seeds: of each arm.
    tested: episodes on which each round's policy is measured.
    model: folder of the base; this and what follows are those of `rounds.Evolution`.
  """

  expected: Literal["filtered", "nft"]
  seeds: Count
  tested: Count
  model: str
  demonstrations: str
  rounds: Count
  episodes: Count
  steps: Count
  learning_rate: Annotated[float, Range(0, exclusive=True)]
  held_out: Count
  env: str

  def run(self, method: Method, seed: int, rounds: int) -> Evolution:
    """What an arm does from a seed in so many rounds."""
    shared = {name: value for name, value in dataclasses.asdict(self).items() if name not in _OWN}
    return Evolution(**{**shared, "method": method, "seed": seed, "rounds": rounds})


def parse_experiment(config: ConfigDict) -> Experiment:
  """The experiment of a config.

  Raises:
    KairosError: it has none, or a key of it is unknown, missing or not allowed.
  """
  return parse(Experiment, config.to_dict()["evolution"], "evolution")


def run(experiment: Experiment, chosen: Sequence[Cell], out: Path, *, resume: bool) -> list[Row]:
  """Runs the cells that are not finished, one after the other, and writes a row for each; an interrupted one goes on.

  Args:
    experiment: what is run.
    chosen: arms and seeds of it.
    out: folder; each cell has its own, and all share `replay` and `evaluation.jsonl`.
    resume: goes on where rows are there already; else they are refused.

  Raises:
    KairosError: there are rows and no `resume`, a row is of another config, or as `rounds.evolve`.
  """
  missing = cells.unfinished(chosen, out, lambda cell: _fingerprint(experiment), resume=resume)
  for number, cell in enumerate(missing):
    logging.info("cell %d of %d: %s", number + 1, len(missing), cell.name)
    row = _run_cell(experiment, cell, out)
    cells.keep(out, cell, row)
    curve = " ".join(f"{good / row['episodes']:.3f}" for good in row["successes"])
    console.show(f"{cell.name}: success after each round {curve}")
  return [cells.read(out / cell.name) for cell in chosen]


def _run_cell(experiment: Experiment, cell: Cell, out: Path) -> Row:
  begin = time.monotonic(), time.process_time()
  record, successes = EpisodeRecord(out / "evaluation.jsonl"), list[int]()
  for number in range(experiment.rounds + 1):
    policy = Path(experiment.model)
    if cell.variant != BASE:
      policy = evolve(experiment.run(cell.variant, cell.seed, number), out / cell.name, shared=out)  # type: ignore[arg-type]
    score = compare(
      runtime.load(policy),
      ["model"],
      episodes=experiment.tested,
      record=record,
      env=experiment.env,
      seed=seeds.derive(cell.seed, "tested"),
    )
    successes.append(score["model"].successes)
  return {
    "variant": cell.variant,
    "seed": cell.seed,
    "config": _fingerprint(experiment),
    "episodes": experiment.tested,
    "successes": successes,
    "minutes": (time.monotonic() - begin[0]) / 60,
    "cpu_minutes": (time.process_time() - begin[1]) / 60,
  }


def _fingerprint(experiment: Experiment) -> str:
  """Of all that decides a row's numbers; the model by its content."""
  what = dataclasses.asdict(experiment)
  return cells.hashed({**what, "model": saved_model.content_hash(runtime.load(experiment.model).saved)})


class Verdict(NamedTuple):
  """Whether the expected arm won as it should.

  Attributes:
    control: the better of the two controls, by its mean after the last round.
    gain: of the expected arm over it after the last round, a mean of differences by seed with its bootstrap over seeds.
    positive, seeds: in how many of the seeds that all three arms have finished the difference is above 0.
    change: of the expected arm's mean from the first round to the last.
    passed: None as long as seeds are missing.
  """

  control: str
  gain: Interval
  positive: int
  seeds: int
  change: float
  passed: bool | None


def judge(experiment: Experiment, rows: Sequence[Row]) -> Verdict | None:
  """The verdict on all rows that are there; None where no seed has the expected arm and both controls."""
  by_arm: dict[str, dict[int, np.ndarray]] = {}
  for row in rows:
    by_arm.setdefault(row["variant"], {})[row["seed"]] = np.array(row["successes"]) / row["episodes"]
  every = sorted(set.intersection(*(set(by_arm.get(arm, {})) for arm in (experiment.expected, *CONTROLS))))
  if not every:
    return None
  rates = {arm: np.array([by_arm[arm][seed] for seed in every]) for arm in (experiment.expected, *CONTROLS)}
  control = max(CONTROLS, key=lambda arm: rates[arm][:, -1].mean())
  apart, ours = rates[experiment.expected][:, -1] - rates[control][:, -1], rates[experiment.expected].mean(axis=0)
  gain, positive, change = mean_interval(apart), int((apart > 0).sum()), float(ours[-1] - ours[1])
  passed = gain.value >= GAIN and gain.low > 0 and positive >= POSITIVE * len(every) and change >= -WORSE
  return Verdict(control, gain, positive, len(every), change, passed if len(every) >= experiment.seeds else None)


def told(experiment: Experiment, verdict: Verdict | None) -> str:
  """The verdict in a line."""
  if verdict is None:
    return f"{experiment.expected} should win: no seed has it and both controls yet"
  outcome = {True: "passed", False: "failed", None: f"undecided, {experiment.seeds} seeds are asked for"}
  value, low, high = verdict.gain
  return (
    f"{experiment.expected} should win: {outcome[verdict.passed]}; over {verdict.control} {value:+.3f} ({low:+.3f} to "
    f"{high:+.3f}; {GAIN:+g} is asked for), above 0 in {verdict.positive} of {verdict.seeds} seeds, last round over "
    f"first {verdict.change:+.3f}"
  )
