"""Drives the simulated robot with a trained model over unseen episodes.

usage:
  kairos evaluate --model=runs/cue_reach [--episodes=100] [--policies=model,random,expert] [--out=FILE.json]

Policies: model (sees the cue all the time), hidden (the model, which sees the cue in the first four frames only), blind
(the model on black images), random and expert. The episodes are the same for every policy and every model. A rate is
printed with its 95 % interval (Wilson) over the episodes.
"""

from collections.abc import Sequence

from absl import flags

from kairos_jax.cli import arguments
from kairos_jax.errors import KairosError


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags."""
  del argv
  flags.DEFINE_string("model", None, "folder of a run or of its model", flag_values=table)
  flags.DEFINE_integer("episodes", 100, "unseen episodes for each policy", lower_bound=1, flag_values=table)
  flags.DEFINE_string("policies", None, "which, separated by commas (default: all)", flag_values=table)
  flags.DEFINE_string("out", None, "also write the rates and their intervals to this file, as JSON", flag_values=table)


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
  from kairos_jax.evaluation.intervals import wilson

  known = list(closed_loop.POLICIES)
  names = [name.strip() for name in values.policies.split(",")] if values.policies else known
  if unknown := [name for name in names if name not in known]:
    raise KairosError(
      f"no policy {unknown[0]!r}{arguments.did_you_mean(unknown[0], known)}; there are {','.join(known)}"
    )
  model = kairos_jax.load(values.model)
  outcomes = closed_loop.compare(model, names, episodes=values.episodes)
  rates = {name: wilson(int(outcome.success.sum()), len(outcome.success)) for name, outcome in outcomes.items()}
  for name, (rate, low, high) in rates.items():
    print(f"{name:8} {rate:.2f}  ({low:.2f} to {high:.2f})")
  if values.out:
    success = {name: rate.value for name, rate in rates.items()}
    interval = {name: [rate.low, rate.high] for name, rate in rates.items()}
    files.write_json(values.out, {"episodes": values.episodes, "success": success, "interval": interval})
