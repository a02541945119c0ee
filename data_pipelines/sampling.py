"""From a clip to a sample of fixed shapes: frames, states and actions are found by time, never by index."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from data_pipelines import embodiments
from data_pipelines.embodiments import Embodiment
from data_pipelines.normalize import EmbodimentNormalizer, Normalizer
from data_pipelines.records import Clip

Crop = Literal["start", "random", "anywhere"]
Sample = dict[str, np.ndarray | np.generic]
ROUND = 1e-6  # of a sample: what rounding may take from a time that falls on a sample's own


@dataclasses.dataclass(frozen=True)
class Window:
  """The fixed shapes of a stage's samples.

  Attributes:
    frames: T.
    video_fps: Hz, of a sample's frames, whatever the clip's rate.
    action_steps: actions at the clip's own rate, from the sample's first frame on.
    state_dim, action_dim: S and A, at least those of every embodiment.
    picture_size: height and width; None is each embodiment's own.
    normalizers: by embodiment.
  """

  frames: int
  video_fps: float
  action_steps: int
  state_dim: int
  action_dim: int
  picture_size: tuple[int, int] | None
  normalizers: Mapping[str, EmbodimentNormalizer]

  def embodiment(self, name: str) -> Embodiment:
    """The embodiment that the normalizers know by this name, or else the one that the files do."""
    return self.normalizers[name].embodiment if name in self.normalizers else embodiments.get(name)

  def starts(self, clip: Clip) -> int:
    """How many frames of a clip a sample can start at and still be filled; at least 1."""
    span = (self.frames - 1) * clip.video_fps / self.video_fps  # clip frames from the first to the last
    return max(1, math.ceil(clip.frames - span - ROUND))

  def sample(self, clip: Clip, start: int) -> Sample:
    """The sample that begins with frame `start` of the clip.

    Beyond the clip's end the last frame stays, and states and actions are 0 with a False mask; so they are in
    dimensions that the embodiment does not have.
    """
    begin = start / clip.video_fps
    times = begin + np.arange(self.frames) / self.video_fps
    frame = in_force(times, clip.video_fps)
    length = int(np.searchsorted(frame, clip.frames))
    kept = np.minimum(frame, clip.frames - 1)
    normalizer = self.normalizers.get(clip.embodiment)
    state_index = in_force(times, clip.action_hz)
    state_index[length:] = len(clip.state)
    action_index = in_force(times[:1], clip.action_hz) + np.arange(self.action_steps)
    state, state_mask = _labels(
      clip.state, clip.state_mask, state_index, self.state_dim, normalizer.state if normalizer else None
    )
    how = clip.action_mask, action_index, self.action_dim, normalizer.action if normalizer else None
    action, action_mask = _labels(clip.action, *how)
    executed = action if clip.executed is None else _labels(clip.executed, *how)[0]
    order = sorted(self.normalizers)
    return {
      **self._shown(clip, kept, length),
      "length": np.int32(length),
      "state": state,
      "state_mask": state_mask,
      "action": action,
      "action_mask": action_mask,
      "executed": executed,
      "action_hz": np.float32(clip.action_hz),
      "fps": np.float32(self.video_fps),
      "embodiment": np.int32(order.index(clip.embodiment) if normalizer else -1),
    }

  def _shown(self, clip: Clip, frames: Int[np.ndarray, "T"], length: int) -> Sample:
    """The video of these frames, or what an autoencoder has made of it."""
    if clip.latents:
      return {"latents": clip.latents.values}
    used = self.embodiment(clip.embodiment)
    # Frames in a row are a view, which the batch copies once.
    row = frames[-1] - frames[0] == self.frames - 1 and length == self.frames
    shown = slice(frames[0], frames[-1] + 1) if row else frames
    cameras = {name: clip.cameras[name][shown] for name in used.cameras if name in clip.cameras}
    return {"video": embodiments.compose(used, cameras, self.picture_size)}


def first_frame(crop: Crop, length: int, starts: int, moment: float) -> int:
  """The frame of a clip that a sample begins with.

  Args:
    crop: see `make_loader`.
    length: frames of the clip.
    starts: at how many of them a sample can begin and still be filled.
    moment: uniform in [0, 1).
  """
  match crop:
    case "random":
      return int(moment * starts)
    case "anywhere":
      return int(max(2 * moment - 1, 0) * (length - 1))
    case _:
      return 0


def in_force(times: Float[np.ndarray, "n"], rate: float) -> Int[np.ndarray, "n"]:
  """Indices of the samples in force at `times` (s, from 0): the last that had begun, sample i beginning at i / rate."""
  return (times * rate + ROUND).astype(np.int64)


def _labels(
  values: Float[np.ndarray, "N D"],
  mask: Bool[np.ndarray, "N"],
  index: Int[np.ndarray, "n"],
  width: int,
  normalizer: Normalizer | None,
) -> tuple[Float[np.ndarray, "n W"], Bool[np.ndarray, "n W"]]:
  """Normalized entries at `index`, padded to the model's width, and which of them are known."""
  out, known = np.zeros((len(index), width), np.float32), np.zeros((len(index), width), bool)
  if normalizer and len(values):
    dim = values.shape[1]
    inside = index[: np.searchsorted(index, len(values))]  # indices do not fall
    valid = mask[inside, None]
    out[: len(inside), :dim] = normalizer.normalize(values[inside]) * valid
    known[: len(inside), :dim] = valid
  return out, known
