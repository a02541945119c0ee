"""What can drive the robot: the world model, and baselines that show what its success is worth."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines import embodiments
from kairos_jax.errors import KairosError
from kairos_jax.interfaces import Observation, Policy
from kairos_jax.runtime import Slots, WorldModel

STEPS = 3  # denoising steps of a chunk; few make the policy surer of itself (docs/results.md)


class ModelPolicy:
  """The world model: a slot of `runtime.Slots` for each episode; after each latent's worth of actions it plans anew.

  A slot's stream goes on until its episode ends, however long that is: its memory is of constant size.
  """

  def __init__(self, model: WorldModel, instructions: Sequence[str], embodiment: str, *, steps: int = STEPS):
    """Makes room for one episode in each slot.

    Args:
      model: has an action tower and a memory of constant size.
      instructions: of each slot; they stay when episodes change.
      embodiment: name of the robot.
      steps: denoising steps of a chunk of actions.

    Raises:
      KairosError: the model's memory grows, it does not drive this robot, the control rate is no whole multiple of the
        video rate, or a chunk of actions is shorter than a latent.
    """
    robot = model.robot(embodiment).embodiment
    ratio = robot.control_hz / model.saved.video_fps
    if ratio < 1 or ratio != round(ratio):
      rates = f"{robot.control_hz:g} Hz at {model.saved.video_fps:g} frames a second"
      raise KairosError(f"embodiment {robot.name!r} is controlled with {rates}; a whole multiple is needed")
    self._stride = round(ratio)  # control steps a frame
    self._actions = self._stride * model.codec.time_stride
    if self._actions > model.saved.action_horizon:
      horizon = model.saved.action_horizon
      raise KairosError(f"the model gives {horizon} actions; a latent of new frames takes {self._actions}")
    self._model, self._robot, self._steps = model, robot, steps
    self._instructions = list(instructions)
    self._pool = Slots(model, len(self._instructions), smallest=len(self._instructions))
    self._begun: set[int] = set()  # slots whose stream goes on; those of others begin with the next call

  def reset(self, slots: Sequence[int]) -> None:
    """Forgets what was seen in these slots."""
    self._begun -= set(slots)

  def act(
    self, slots: Sequence[int], observations: Sequence[Sequence[Observation]], seeds: Sequence[int]
  ) -> Float[np.ndarray, "S n A"]:
    """See `interfaces.Policy`; n is a latent's worth of control steps."""
    frames = {slot: self._frames(seen) for slot, seen in zip(slots, observations, strict=True)}
    fresh = [slot for slot in slots if slot not in self._begun]
    going = [slot for slot in slots if slot not in fresh]
    if fresh:
      self._begin(fresh, np.stack([self._first(frames[slot]) for slot in fresh]))
    if going:
      self._pool.extend(going, np.stack([frames[slot] for slot in going]))
    self._begun |= set(fresh)
    states = np.stack([seen[-1].state for seen in observations])
    options: dict[str, Any] = dict(seeds=seeds, steps=self._steps, embodiment=self._robot.name)
    return self._pool.act(slots, states, **options)[:, : self._actions]

  def _frames(self, seen: Sequence[Observation]) -> UInt8[np.ndarray, "T H W 3"]:
    """The pictures among the observations that are frames of the model's video: the latest, and back from there."""
    kept = list(seen)[:: -self._stride][::-1]
    return np.stack([embodiments.picture(self._robot.name, one.images) for one in kept])

  def _first(self, frames: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "F H W 3"]:
    """What begins a video: the latest frames; where there are too few, the oldest stands still before them."""
    count = self._model.codec.first_frames
    return np.concatenate([np.repeat(frames[:1], max(0, count - len(frames)), axis=0), frames[-count:]])

  def _begin(self, slots: Sequence[int], frames: UInt8[np.ndarray, "S F H W 3"]) -> None:
    if not self._pool.occupied:  # every slot gets its instruction, which a reset leaves there
      streams = {text: self._model.prefill(frames[0], text) for text in self._instructions}
      for slot, text in enumerate(self._instructions):
        self._pool.insert(slot, streams[text])
    self._pool.reset(slots, frames)


class RandomPolicy:
  """Uniform actions in [-1, 1], as many at a time as a model gives."""

  def __init__(self, action_dim: int, actions: int):
    self._shape = (actions, action_dim)

  def reset(self, slots: Sequence[int]) -> None:
    """Nothing was kept."""

  def act(
    self, slots: Sequence[int], observations: Sequence[Sequence[Observation]], seeds: Sequence[int]
  ) -> Float[np.ndarray, "S n A"]:
    """See `interfaces.Policy`."""
    return np.stack([np.random.default_rng(seed).uniform(-1, 1, self._shape) for seed in seeds])


@runtime_checkable
class Scripted(Protocol):
  """An environment that knows how its task is done."""

  def expert(self) -> Float[np.ndarray, "A"]:
    """The next action of its script."""


class ExpertPolicy:
  """What the environments' own scripts do: they know the answer."""

  def __init__(self, environments: Sequence[Scripted]):
    """Slot i is the script of environment i."""
    self._environments = environments

  def reset(self, slots: Sequence[int]) -> None:
    """Nothing was kept."""

  def act(
    self, slots: Sequence[int], observations: Sequence[Sequence[Observation]], seeds: Sequence[int]
  ) -> Float[np.ndarray, "S 1 A"]:
    """See `interfaces.Policy`."""
    return np.stack([self._environments[slot].expert() for slot in slots])[:, None]


@dataclasses.dataclass(frozen=True)
class _Dark:
  images: Mapping[str, UInt8[np.ndarray, "H W 3"]]
  state: Float[np.ndarray, "S"]


class BlindPolicy:
  """Another policy whose cameras are black: what it knows without its eyes. It still feels its state."""

  def __init__(self, policy: Policy):
    self._policy = policy

  def reset(self, slots: Sequence[int]) -> None:
    """See `interfaces.Policy`."""
    self._policy.reset(slots)

  def act(
    self, slots: Sequence[int], observations: Sequence[Sequence[Observation]], seeds: Sequence[int]
  ) -> Float[np.ndarray, "S n A"]:
    """See `interfaces.Policy`."""
    dark = [[_Dark({k: np.zeros_like(v) for k, v in o.images.items()}, o.state) for o in seen] for seen in observations]
    return self._policy.act(slots, dark, seeds)
