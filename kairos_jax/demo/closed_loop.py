"""Policies compared in closed loop on the same unseen episodes of CueReach."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from rich import progress

from data_pipelines.simulate.cue_reach import INSTRUCTION, Cue, CueReach
from kairos_jax.runtime import WorldModel
from kairos_jax.runtime.closed_loop import Outcome, Policy, model_policy, random_policy, run_episodes

UNSEEN = 10_000  # seed of everything that is evaluated on; training uses small ones

# Name -> how the cue is shown, and the policy of a model for a batch of environments.
POLICIES: dict[str, tuple[Cue, Callable[[WorldModel, Sequence[CueReach]], Policy]]] = {
  "model": ("visible", lambda model, _: model_policy(model, INSTRUCTION)),
  "hidden": ("hidden", lambda model, _: model_policy(model, INSTRUCTION)),
  "blind": ("visible", lambda model, _: model_policy(model, INSTRUCTION, blind=True)),
  "random": ("visible", lambda model, _: random_policy(3, model.codec.time_stride)),
  "expert": (
    "visible",
    lambda _, environments: lambda frames, states: np.stack([env.expert() for env in environments])[:, None],
  ),
}


def compare(model: WorldModel, names: Sequence[str], *, episodes: int) -> dict[str, Outcome]:
  """Runs each named policy on the same unseen episodes, with a progress bar for each."""
  outcomes = {}
  with progress.Progress() as bars:
    for name in names:
      cue, policy = POLICIES[name]
      task = bars.add_task(f"{name:18}", total=1.0)
      environments = [CueReach(model.saved.frame_size[0], cue) for _ in range(episodes)]
      seeds = [[UNSEEN, episode] for episode in range(episodes)]
      watch = functools.partial(_show, bars, task)
      outcomes[name] = run_episodes(environments, seeds, policy(model, environments), watch)
      bars.update(task, completed=1.0, description=f"{name:18} {outcomes[name].rate:.2f}")
  return outcomes


def _show(bars: progress.Progress, task: progress.TaskID, done: float) -> None:
  bars.update(task, completed=done)
