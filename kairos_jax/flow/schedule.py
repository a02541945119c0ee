"""Noise levels of flow matching, from pure noise (sigma 1) to data (sigma 0).

Source: the reference's FlowMatchScheduler and DMDFlowMatchScheduler, in float32 as they compute it.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float

TRAIN_TIMESTEPS = 1000


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Noise levels in the order in which a sampler visits them, and the level after the last."""

  sigmas: Float[np.ndarray, "N"]
  final: float = 0.0

  @property
  def timesteps(self) -> Float[np.ndarray, "N"]:
    return self.sigmas * np.float32(TRAIN_TIMESTEPS)

  @property
  def next_sigmas(self) -> Float[np.ndarray, "N"]:
    return np.append(self.sigmas[1:], np.float32(self.final))

  @property
  def weights(self) -> Float[np.ndarray, "N"]:
    """A bell over the middle timesteps with mean 1: the reference's training weight."""
    n = len(self.sigmas)
    bell = np.exp(-2 * ((self.timesteps - n / 2) / n) ** 2)
    bell = bell - bell.min()
    return bell * (n / bell.sum())

  def nearest(self, timestep: float) -> int:
    """Index of the level closest to a timestep."""
    return int(np.argmin(np.abs(self.timesteps - np.float32(timestep))))


def video_shift(tokens_per_frame: float, latent_frames: float) -> float:
  """How far a video's schedule leans to high noise: exp(mu) sqrt(frames), mu from 0.5 to 0.9 for 256 to 8192 tokens.

  Longer and larger videos are more redundant, so the same sigma hides less of them.
  """
  slope = (0.9 - 0.5) / (8192 - 256)
  return math.exp(tokens_per_frame * slope + 0.5 - slope * 256) * math.sqrt(latent_frames)


ACTION_SHIFT = 5.0
DMD_SHIFT = 5.0  # of the released distilled student


def shifted(sigma: Float[Array, "*#S"], shift: float | Float[Array, "*#S"]) -> Float[Array, "*S"]:
  """Moves noise levels towards 1 for shift s > 1: s sigma / (1 + (s - 1) sigma)."""
  return shift * sigma / (1 + (shift - 1) * sigma)


def flow_schedule(
  steps: int,
  shift: float,
  *,
  sigma_min: float = 0.0,
  strength: float = 1.0,
  endpoint: bool = False,
) -> Schedule:
  """Evenly spaced noise levels from high to low, shifted.

  Args:
    steps: number of levels.
    shift: see `video_shift` (video) and `ACTION_SHIFT`.
    sigma_min: the level that the even spacing ends at, before the shift; itself left out unless `endpoint`.
    strength: level to start from; below 1 some of the sample is kept.
    endpoint: the last level is `sigma_min` itself.
  """
  start = np.float32(sigma_min + (1.0 - sigma_min) * strength)
  sigmas = _linspace(start, np.float32(sigma_min), steps if endpoint else steps + 1)[:steps]
  return Schedule(shifted(sigmas, np.float32(shift)))


def dmd_schedule(times: Sequence[float], shift: float) -> Schedule:
  """The few levels of a distilled student, given as timesteps before the shift."""
  sigmas = np.asarray(times, np.float32) / np.float32(TRAIN_TIMESTEPS)
  return Schedule(shifted(sigmas, np.float32(shift)))


def _linspace(start: np.float32, stop: np.float32, count: int) -> Float[np.ndarray, "count"]:
  """Both ends exact and each half counted from its own end, so that float32 rounding equals the reference's."""
  step = (stop - start) / np.float32(count - 1)
  index = np.arange(count, dtype=np.float32)
  return np.where(index < count // 2, start + step * index, stop - step * (count - 1 - index)).astype(np.float32)
