"""Rolling a policy out: each episode is kept in the replay as it ends, by one process or by several.

The processes share nothing but the replay. Noise comes from an episode's own seed and batches have one size, so it
makes no difference who runs which episode. The only expert is in the demonstrations: an environment's script raises if
a rollout asks it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from data_pipelines import embodiments
from data_pipelines.engines.base import Asked, Engine, Entry, WorkerDied, no_questions
from data_pipelines.simulate.filming import episode_clip
from kairos_jax import console, runtime
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.comparison import ENTRIES, Arena
from kairos_jax.locations import Location
from kairos_jax.replay import Origin, Replay

_AT_ONCE = 64  # episodes that a process is given


@dataclasses.dataclass(frozen=True)
class RollOut:
  """A work, see `engines.base.Work`, whose items are lists of seeds.

  Attributes:
    policy: folder of the model that acts.
    name: its content hash.
    env: the environment.
    episodes: of all items, by which the batch is chosen.
    replay: folder.
  """

  policy: Path
  name: str
  env: str
  episodes: int
  replay: Path

  def reader(self) -> Callable[[Sequence[int]], Iterator[Entry]]:
    """Acts, and keeps each episode as it ends."""
    model, replay = runtime.load(self.policy), Replay(self.replay)
    arena = Arena(model, self.env, self.episodes)
    for environment in arena.environments:
      environment.expert = _no_expert  # type: ignore[method-assign]
    there = arena.environments[0]

    def act(seeds: Sequence[int]) -> Iterator[Entry]:
      for episode in arena.play(ENTRIES["model"], seeds):
        origin = Origin(self.name, self.env, episode.seed, episode.success)
        clip = episode_clip(
          [seen.images for seen in episode.observations],
          [seen.state for seen in episode.observations],
          episode.actions,
          source="rollouts",
          embodiment=episode.embodiment,
          license=there.license,
          caption=there.instruction,
          instruction=there.instruction,
          provenance={"origin": origin._asdict()},
          stride=round(embodiments.get(episode.embodiment).control_hz / model.saved.video_fps),
        )
        replay.add(clip, origin)
        yield {"seed": episode.seed, "success": episode.success}

    return act

  def answerer(self) -> Callable[[Asked], Entry]:
    """Nothing is asked."""
    return no_questions

  def ledger(self, item: Sequence[int]) -> Location | None:
    """The replay is the ledger."""
    return None


def roll_out(work: RollOut, seeds: Sequence[int], engine: Engine) -> None:
  """Runs those of the episodes that the replay lacks.

  Raises:
    KairosError: a process died on some; the others are kept.
  """
  kept = Replay(work.replay).kept(work.name, work.env)
  waiting = [seed for seed in seeds if seed not in kept]
  if not waiting:
    return
  items = [waiting[first : first + _AT_ONCE] for first in range(0, len(waiting), _AT_ONCE)]
  died, done = None, len(seeds) - len(waiting)
  with console.progress("rollouts", len(seeds), done=done) as bar:
    for _, entries in engine(work, items):
      if isinstance(entries, WorkerDied):
        died = entries
        continue
      done += len(entries)
      bar.update(done, f"{sum(one['success'] for one in entries)} of the last {len(entries)} succeeded")
  if died:
    raise KairosError(f"{len(seeds) - done} episodes are missing, because {died}; the same command goes on")


def _no_expert(*_: object) -> NoReturn:
  raise KairosError("the expert is asked for an action after the demonstrations were made; allowed: never")
