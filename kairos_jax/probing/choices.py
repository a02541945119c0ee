"""Which ball a stream goes for when it has another stream's memory, wholly or in part, on DelayedCueReach."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from data_pipelines.simulate.cue_reach import Observation
from data_pipelines.simulate.delayed_cue_reach import DelayedCueReach
from kairos_jax import seeds
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.intervals import Interval, wilson
from kairos_jax.probing import draw, forgetting
from kairos_jax.probing.intervene import transplant
from kairos_jax.runtime import Stream, WorldModel


@dataclasses.dataclass(frozen=True)
class Choices:
  """How many arms chose what, by the name of what was transplanted.

  Attributes:
    own: the color that the arm's own stream has seen.
    donor: the color that the memory's giver has seen.
    scenes: how many there were; what is left chose a third color.
  """

  own: dict[str, int]
  donor: dict[str, int]
  scenes: int

  def shares(self, name: str) -> tuple[Interval, Interval]:
    """Of the scenes in which the own and the donor's color were chosen."""
    return wilson(self.own[name], self.scenes), wilson(self.donor[name], self.scenes)

  def plot(self, axes: Axes | None = None) -> Axes:
    """Two dots with their intervals for each transplant."""
    panel = draw.panel(axes, "", "share of scenes")
    for shift, label, which in ((-0.1, "own color", 0), (0.1, "the donor's", 1)):
      value, low, high = np.array([self.shares(name)[which] for name in self.own]).T
      panel.errorbar(np.arange(len(value)) + shift, value, [value - low, high - value], fmt="o", label=label)
    panel.set(ylim=(-0.03, 1.03), xticks=range(len(self.own)))
    panel.set_xticklabels(list(self.own), rotation=30, ha="right")
    return draw.legend(panel)


def choices(
  model: WorldModel,
  delay: int,
  transplants: Mapping[str, Mapping[str, Any]],
  *,
  colors: int = 4,
  scenes: int = 64,
  seed: int = 1,
) -> Choices:
  """Lets arms choose that have waited for `delay` frames, each with what was transplanted from a stream of its twin.

  The twin has waited in the same scene and was shown the next color, so that nothing but the color differs. What an arm
  sees after the transplant is its own.

  Args:
    model: with a memory of constant size, that drives the slide arm.
    delay: frames, a multiple of four.
    transplants: by name, the arguments `layers` and `parts` of `transplant`.
    colors: of the task.
    scenes: how many; own colors come in turn.
    seed: of the scenes and the noise.

  Raises:
    KairosError: as `transplant` and `act`, or a delay that is no whole latents.
  """
  if delay % model.codec.time_stride:
    raise KairosError(f"choices: delay is {delay}; allowed: multiples of {model.codec.time_stride}")
  size = model.saved.frame_size[0]
  waits = forgetting.film(size, [delay], colors=colors, scenes=scenes, seed=seed)
  own = np.arange(scenes) % colors
  streams = [
    model.prefill(waits.frames[np.arange(scenes) * colors + label], DelayedCueReach.instruction)
    for label in (own, (own + 1) % colors)
  ]
  environments = [DelayedCueReach(size, colors) for _ in range(scenes)]
  found: dict[str, list[int]] = {}
  for name, which in transplants.items():
    for scene, environment in enumerate(environments):
      environment.reset([seed, scene], goal=int(own[scene]), delay=delay)
    found[name] = _run(model, environments, transplant(streams[0], streams[1], model, **which), seed)
  kept, taken = (
    {name: int(((np.array(chosen) - own) % colors == which).sum()) for name, chosen in found.items()}
    for which in (0, 1)
  )
  return Choices(kept, taken, scenes)


def _run(model: WorldModel, environments: Sequence[DelayedCueReach], stream: Stream, seed: int) -> list[int]:
  """Acts until every arm has chosen; the colors by their index."""
  stride = model.codec.time_stride
  states = np.stack([environment.skip().state for environment in environments])
  while any(environment.choice is None for environment in environments):
    noise = [seeds.derive(seed, "choices", scene, one.frame) for scene, one in enumerate(environments)]
    chunk = model.act(stream, states, seed=noise)
    seen = [
      [_step(environment, action) for action in actions[:stride]]
      for environment, actions in zip(environments, chunk, strict=True)
    ]
    stream = model.extend(stream, np.stack([[one.images["front"] for one in row] for row in seen]))
    states = np.stack([row[-1].state for row in seen])
  return [environment.colors.index(environment.choice or "") for environment in environments]


def _step(environment: DelayedCueReach, action: np.ndarray) -> Observation:
  """An arm that has chosen rests."""
  return environment.step(action if environment.choice is None else np.zeros(3))[0]
