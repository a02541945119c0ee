"""How frames and episodes of simulators become a record."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from data_pipelines import embodiments
from data_pipelines.records import Clip
from data_pipelines.simulate.scene import FPS


def simulated_clip(
  frames: Sequence[UInt8[np.ndarray, "H W 3"]],
  *,
  source: str,
  embodiment: str,
  caption: str,
  instruction: str = "",
  states: Sequence[Float32[np.ndarray, "S"]] = (),
  actions: Sequence[Float32[np.ndarray, "A"]] = (),
  action_mask: Bool[np.ndarray, "M"] | None = None,
  executed: Sequence[Float[np.ndarray, "A"]] | None = None,
  camera: str = "front",
) -> Clip:
  """A clip from the one camera, at the simulator's one rate; without states and actions it is unlabeled.

  `action_mask` says which actions are labels, None: all; `executed` what was done instead of them, None: nothing else.
  """
  return Clip(
    cameras={camera: np.stack(frames)},
    video_fps=FPS,
    action_hz=FPS,
    state=np.stack(states) if states else np.zeros((0, 0), np.float32),
    action=np.stack(actions) if actions else np.zeros((0, 0), np.float32),
    state_mask=np.ones(len(states), bool),
    action_mask=np.ones(len(actions), bool) if action_mask is None else action_mask,
    executed=None if executed is None else np.stack(executed).astype(np.float32),
    embodiment=embodiment,
    source=source,
    license="Apache-2.0",
    caption=caption,
    instruction=instruction,
    provenance={"simulator": "mujoco"},
  )


def episode_clip(
  images: Sequence[Mapping[str, UInt8[np.ndarray, "H W 3"]]],
  states: Sequence[Float[np.ndarray, "S"]],
  actions: Sequence[Float[np.ndarray, "A"]],
  *,
  source: str,
  embodiment: str,
  license: str,  # noqa: A002
  caption: str,
  instruction: str,
  provenance: Mapping[str, Any],
  executed: Sequence[Float[np.ndarray, "A"]] | None = None,
  stride: int = 1,
) -> Clip:
  """All that a robot saw and felt in an episode, and every action as a label.

  Args:
    images: by camera, from the reset to the end, at the robot's rate.
    states: likewise, in the robot's units.
    actions: between them, likewise.
    source, embodiment, license, caption, instruction, provenance: see `Clip`.
    executed: what was done instead of the actions; None: nothing else.
    stride: moments for each frame of the video.
  """
  hz = embodiments.get(embodiment).control_hz
  return Clip(
    cameras={name: np.stack([seen[name] for seen in images[::stride]]) for name in images[0]},
    video_fps=hz / stride,
    action_hz=hz,
    state=np.stack(states).astype(np.float32),
    action=np.stack(actions).astype(np.float32),
    state_mask=np.ones(len(states), bool),
    action_mask=np.ones(len(actions), bool),
    embodiment=embodiment,
    source=source,
    license=license,
    caption=caption,
    instruction=instruction,
    provenance=dict(provenance),
    executed=None if executed is None else np.stack(executed).astype(np.float32),
  )
