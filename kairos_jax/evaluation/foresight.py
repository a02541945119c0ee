"""How well a model imagines: each future frame beside the true one, and beside a last frame that stays.

A video is imagined as it is streamed: one latent's frames at a time, each history of the next. Denoising all of the
future at once blurs what moves twice as much (docs/results.md).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_pipelines import embodiments
from data_pipelines.simulate.generate import generate
from data_pipelines.simulate.tabletop import ARM_COLOR
from kairos_jax import seeds
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import intervals, rollout, video_metrics
from kairos_jax.evaluation.intervals import Interval
from kairos_jax.interfaces import num_frames
from kairos_jax.runtime import WorldModel

TIP_LEVEL = 0.7  # of red, green and blue: the tip is white
NEAR = 2  # pixels
SEEN, FUTURE = 2, 4  # latents of a clip: those that the model sees, and those that it imagines

Video = UInt8[np.ndarray, "N T H W 3"]


class Quality(NamedTuple):
  """How near each frame of each clip is to the true one.

  Attributes:
    psnr: dB.
    ssim: at most 1.
    found: share of the true arm's pixels that are the arm's here too; NaN where the true frame shows no arm.
    near: share of the true arm's pixels that the arm is at, or at most `NEAR` pixels from.
    f1: of the two masks of the arm, which an arm that is everywhere cannot win.
  """

  psnr: Float[np.ndarray, "N T"]
  ssim: Float[np.ndarray, "N T"]
  found: Float[np.ndarray, "N T"]
  near: Float[np.ndarray, "N T"]
  f1: Float[np.ndarray, "N T"]


@dataclasses.dataclass(frozen=True)
class Foresight:
  """What was imagined of unseen clips, and how near it is.

  Attributes:
    imagined: the model's frames.
    model, still: their quality, and that of the last seen frame, repeated.
    fps: frames a second.
  """

  imagined: Video
  model: Quality
  still: Quality
  fps: float

  def gain(self) -> Interval:
    """How many dB the imagined frames are above a frame that stays: mean over clips, with its interval."""
    return intervals.mean_interval((self.model.psnr - self.still.psnr).mean(axis=1))


def arm(video: UInt8[np.ndarray, "*B T H W 3"]) -> Bool[np.ndarray, "*B T H W"]:
  """Which pixels are the simulated arm's: of its hue, or as bright as its white tip, which nothing else there is."""
  return video_metrics.has_hue(video, ARM_COLOR) | video_metrics.is_bright(video, TIP_LEVEL)


def unseen_clips(model: WorldModel, count: int, seed: int = 0) -> tuple[Video, list[str]]:
  """Robot clips of seeds that no training uses, as long as `foresee` takes them, and their instructions.

  Raises:
    KairosError: the simulator's clips are shorter than that.
  """
  length = num_frames(model.codec, SEEN + FUTURE)
  clips = list(generate("robot", count, seeds.derive(seed, "evaluation", "foresight"), model.saved.frame_size[0]))
  videos = [embodiments.picture(clip.embodiment, clip.cameras)[:length] for clip in clips]
  if any(len(video) < length for video in videos):
    raise KairosError(f"foresight: the shortest clip has {min(map(len, videos))} frames; {length} are needed")
  return np.stack(videos), [clip.instruction for clip in clips]


def foresee(
  model: WorldModel,
  video: Video,
  instructions: Sequence[str],
  mark: Callable[[Video], Bool[np.ndarray, "N T H W"]] = arm,
) -> Foresight:
  """Imagines the end of each clip from its first `SEEN` latents, and compares.

  Args:
    model: the one that imagines.
    video: clips; those frames that are whole latents after the seen ones are imagined.
    instructions: of each clip.
    mark: which pixels belong to what must be found again.
  """
  seen, future = np.split(video, [num_frames(model.codec, SEEN)], axis=1)
  frames = num_frames(model.codec, 1, begins=False)
  stream = model.prefill(seen, instructions)
  imagined = np.concatenate(list(rollout.segments(model, stream, future.shape[1] // frames, frames, seed=0)), axis=1)
  still = np.repeat(seen[:, -1:], future.shape[1], axis=1)
  return Foresight(imagined, _quality(imagined, future, mark), _quality(still, future, mark), model.saved.video_fps)


def _quality(got: Video, true: Video, mark: Callable[[Video], Bool[np.ndarray, "N T H W"]]) -> Quality:
  marked, wanted = mark(got), mark(true)
  found, f1 = video_metrics.found_again(marked, wanted)
  near, _ = video_metrics.found_again(video_metrics.widened(marked, NEAR), wanted)
  return Quality(video_metrics.psnr(got, true), video_metrics.ssim(got, true), found, near, f1)
