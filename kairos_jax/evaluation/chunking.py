"""What a late chunk of actions is worth: success in CueReach with rolling balls, by delay and by how chunks are joined.

After each latent's worth of control steps a robot asks for a chunk, which arrives `delay` steps later. Meanwhile it
goes on with the chunk before, and then takes the new one from the action that is due. The ways differ in what the new
chunk knows of these actions:

  synchronous  it waits for the chunk and stands still, so there is nothing to know; only the balls roll on
  naive        nothing: chunks are joined as they come
  guided       it is drawn to them by guidance
  trained      they are its own first actions, as it was trained to be given them

A delay counts control steps and not time, so the machine's speed changes no result.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_pipelines import embodiments
from data_pipelines.simulate.cue_reach import CueReach, Observation
from data_pipelines.simulate.generate import MOVING_SPEED
from kairos_jax import seeds as seeds_lib
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.policies import STEPS
from kairos_jax.runtime import Slots, WorldModel

Way = Literal["synchronous", "naive", "guided", "trained"]
WAYS: tuple[Way, ...] = get_args(Way)
SLOTS = 32  # episodes at once


def episode_seeds(episodes: int, seed: int = 0) -> list[int]:
  """Names of the episodes, the same for every model, way and delay, and of no training data."""
  return [seeds_lib.derive(seed, "evaluation", "chunking", episode) for episode in range(episodes)]


def success(
  model: WorldModel, way: Way, delay: int, seeds: Sequence[int], progress: Callable[[int], None] = lambda done: None
) -> Bool[np.ndarray, "N"]:
  """Whether the episode of each seed ends well.

  Args:
    model: drives a robot of CueReach; its memory is of constant size.
    way: how chunks are joined.
    delay: control steps from a request to its chunk.
    seeds: of the episodes.
    progress: hears how many have ended.

  Raises:
    KairosError: no episodes, a delay for which a chunk is too short, or a model that was not trained for this way.
  """
  stride, horizon = model.codec.time_stride, model.saved.action_horizon
  if not 0 <= delay <= horizon - stride or not len(seeds):
    raise KairosError(f"delay is {delay} in {len(seeds)} episodes; allowed are 0 to {horizon - stride}, in 1 or more")
  if way == "trained" and delay > model.saved.max_delay:
    raise KairosError(f"delay is {delay}; this model was trained to be given {model.saved.max_delay} actions")
  if way == "guided":  # the same weights, as if they had not been trained for more
    model = WorldModel(dataclasses.replace(model.saved, max_delay=0))
  loop, ended = _Loop(model, way, delay, min(SLOTS, len(seeds))), dict[int, bool]()
  waiting = list(seeds)[::-1]
  while len(ended) < len(seeds):
    for seed, successful in loop.turn(waiting):
      ended[seed] = successful
      progress(len(ended))
  return np.asarray([ended[seed] for seed in seeds])


@dataclasses.dataclass
class _Episode:
  """One at work: what was seen and is not in the memory yet, and the chunk that is being executed."""

  seed: int
  seen: list[Observation]
  chunk: Float[np.ndarray, "A D"] | None = None
  calls: int = 0


class _Loop:
  """Slots whose robots all ask in the same control step."""

  def __init__(self, model: WorldModel, way: Way, delay: int, slots: int):
    self._model, self._way, self._delay = model, way, delay
    self._execute = model.codec.time_stride
    robot = next(iter(model.saved.embodiments))
    self._environments = [CueReach(model.saved.frame_size[0], robot=robot, speed=MOVING_SPEED) for _ in range(slots)]
    self._pool = Slots(model, slots, smallest=slots)
    self._running: dict[int, _Episode] = {}

  def turn(self, waiting: list[int]) -> list[tuple[int, bool]]:
    """Begins episodes in free slots, asks once for all, acts until the next request; who ended, and how."""
    for slot, environment in enumerate(self._environments):
      if slot not in self._running and waiting:
        seed = waiting.pop()
        self._running[slot] = _Episode(seed, [environment.reset(seed)])
    states = {slot: one.seen[-1].state for slot, one in self._running.items()}
    self._remember()
    fresh = [slot for slot, one in self._running.items() if one.chunk is None]
    going = [slot for slot in self._running if slot not in fresh]
    chunks = {**self._ask(fresh, states), **self._ask(going, states)}
    pause = self._delay if self._way == "synchronous" else 0
    ended = []
    for step in range(self._execute + pause):
      for slot, one in list(self._running.items()):
        seen, over, successful = self._environments[slot].step(self._action(one, chunks[slot], step, pause))
        one.seen.append(seen)
        if over:
          ended.append((one.seed, successful))
          del self._running[slot]
    for slot, one in self._running.items():
      one.chunk = chunks[slot]
    return ended

  def _action(self, one: _Episode, chunk: Float[np.ndarray, "A D"], step: int, pause: int) -> Float[np.ndarray, "D"]:
    """What is done so many steps after the request; a robot without a plan stands still."""
    if pause:
      return chunk[step - pause] if step >= pause else np.zeros_like(chunk[0])
    if step >= self._delay:
      return chunk[step]
    return np.zeros_like(chunk[0]) if one.chunk is None else one.chunk[self._execute + step]

  def _remember(self) -> None:
    """Begins the streams of new episodes, and extends the others by all latents that their frames fill."""
    first, size = self._model.codec.first_frames, self._model.codec.time_stride
    fresh = [slot for slot, one in self._running.items() if one.chunk is None]
    if fresh:
      frames = np.stack([np.repeat(self._pictures(slot, 1), first, axis=0) for slot in fresh])
      if not self._pool.occupied:
        stream = self._model.prefill(frames[0], self._environments[0].instruction)
        for slot in range(len(self._environments)):
          self._pool.insert(slot, stream)
      self._pool.reset(fresh, frames)
    while full := [s for s, one in self._running.items() if s not in fresh and len(one.seen) >= size]:
      self._pool.extend(full, np.stack([self._pictures(slot, size) for slot in full]))

  def _pictures(self, slot: int, count: int) -> UInt8[np.ndarray, "T H W 3"]:
    """Takes the oldest of what was seen."""
    one, name = self._running[slot], self._environments[slot].embodiment
    now, one.seen = one.seen[:count], one.seen[count:]
    return np.stack([embodiments.picture(name, seen.images) for seen in now])

  def _ask(self, slots: list[int], states: dict[int, Any]) -> dict[int, Float[np.ndarray, "A D"]]:
    """The chunks of slots all of which have one before, or none of which has."""
    if not slots:
      return {}
    some = [self._running[slot] for slot in slots]
    options: dict[str, Any] = {}
    if self._way in ("guided", "trained") and some[0].chunk is not None:
      left = [one.chunk[self._execute :] for one in some if one.chunk is not None]
      options = dict(previous=left, delays=[self._delay] * len(slots))
    noise = [seeds_lib.derive(one.seed, "policy", one.calls) for one in some]
    for one in some:
      one.calls += 1
    actions = self._pool.act(slots, np.stack([states[slot] for slot in slots]), seeds=noise, steps=STEPS, **options)
    return dict(zip(slots, actions, strict=True))
