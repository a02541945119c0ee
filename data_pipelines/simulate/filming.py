"""How frames of the embedded simulator become a record."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, UInt8

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
  camera: str = "front",
) -> Clip:
  """A clip from the one camera, at the simulator's one rate; without states and actions it is unlabeled.

  `action_mask` says which actions are labels; None: all.
  """
  return Clip(
    cameras={camera: np.stack(frames)},
    video_fps=FPS,
    action_hz=FPS,
    state=np.stack(states) if states else np.zeros((0, 0), np.float32),
    action=np.stack(actions) if actions else np.zeros((0, 0), np.float32),
    state_mask=np.ones(len(states), bool),
    action_mask=np.ones(len(actions), bool) if action_mask is None else action_mask,
    embodiment=embodiment,
    source=source,
    license="Apache-2.0",
    caption=caption,
    instruction=instruction,
    provenance={"simulator": "mujoco"},
  )
