"""Drives the simulated robot with a trained model over unseen episodes.

usage:
  kairos evaluate --model=runs/cue_reach [--episodes=100] [--policies=model,random,expert] [--out=FILE.json]

Policies: model (cue visible), "model, cue hidden", "model, blind" (images blanked), random, expert. The episodes are
the same for every policy and every model.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from kairos_jax.errors import KairosError


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags."""
  del argv
  flags.DEFINE_string("model", None, "folder of a run or of its model", flag_values=table)
  flags.DEFINE_integer("episodes", 100, "unseen episodes for each policy", lower_bound=1, flag_values=table)
  flags.DEFINE_integer("size", 48, "pixels, as in training", lower_bound=16, flag_values=table)
  flags.DEFINE_string("policies", None, "which, separated by ';' (default: all)", flag_values=table)
  flags.DEFINE_string("out", None, "also write the rates to this file", flag_values=table)


def run(values: flags.FlagValues, positional: list[str]) -> None:
  """Prints a rate for each policy.

  Raises:
    KairosError: a flag is missing or unknown, or there is no such model.
  """
  if positional or values.model is None:
    raise KairosError("evaluate needs --model=FOLDER and takes flags only")
  import kairos_jax
  from kairos_jax import files
  from kairos_jax.demo import closed_loop

  model = kairos_jax.load(values.model)
  names = values.policies.split(";") if values.policies else list(closed_loop.POLICIES)
  if unknown := [name for name in names if name not in closed_loop.POLICIES]:
    raise KairosError(f"no policy {unknown[0]!r}; there are {'; '.join(closed_loop.POLICIES)}")
  outcomes = closed_loop.compare(model, names, episodes=values.episodes, size=values.size)
  rates = {name: outcome.rate for name, outcome in outcomes.items()}
  for name, rate in rates.items():
    print(f"{name:18} {rate:.2f}")
  if values.out:
    with files.replaced(values.out) as partial:
      Path(partial).write_text(json.dumps({"episodes": values.episodes, "success": rates}, indent=2) + "\n")
