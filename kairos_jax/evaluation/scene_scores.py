"""What is good about an imagined video of the embedded simulator, told from its pixels: higher is better in each.

balls    physics: the balls' pixels stay as many as they were in the last seen frame
arm      physics: where the arm was a frame ago, or near there, it still is
truth    the simulator's own frames: PSNR against them, dB
task     the arm comes near the ball that has the color of the bar, pixels
quality  the picture is as sharp as the last seen frame
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from data_pipelines.simulate.tabletop import BALL_COLORS
from kairos_jax.evaluation import video_metrics
from kairos_jax.evaluation.foresight import arm as arm_pixels

STEP = 4  # pixels that the arm moves in a frame at most, of pictures 48 pixels wide
_WIDTH = 48


class Imagined(NamedTuple):
  """A video, the frames that were seen before it, and what came in truth."""

  seen: UInt8[np.ndarray, "S H W 3"]
  video: UInt8[np.ndarray, "T H W 3"]
  future: UInt8[np.ndarray, "T H W 3"]


def balls(one: Imagined) -> float:
  """Minus the mean change of each color's number of pixels, as a logarithm."""
  changes = []
  for color in BALL_COLORS.values():
    before, after = (video_metrics.has_hue(x, color).sum(axis=(-2, -1)) for x in (one.seen[-1:], one.video))
    changes.append(np.abs(np.log((after + 1) / (before + 1))))
  return -float(np.mean(changes))


def arm(one: Imagined) -> float:
  """The mean share of the arm's pixels that are the arm's, or near it, a frame later; 0 where it was gone before."""
  mask = arm_pixels(np.concatenate([one.seen[-1:], one.video]))
  near = round(STEP * mask.shape[-1] / _WIDTH)
  shares, _ = video_metrics.found_again(video_metrics.widened(mask[1:], near), mask[:-1])
  return float(np.nan_to_num(shares).mean())


def truth(one: Imagined) -> float:
  """The mean PSNR of the frames, dB."""
  return float(video_metrics.psnr(one.video, one.future).mean())


def task(one: Imagined) -> float:
  """Minus the least distance of a frame's arm from the ball to touch, pixels; the picture's width where one is gone."""
  areas = {name: video_metrics.has_hue(one.seen[-1:], color).sum() for name, color in BALL_COLORS.items()}
  goal = BALL_COLORS[max(areas, key=lambda name: areas[name])]  # the bar has it too
  width = one.video.shape[2]
  every = zip(video_metrics.has_hue(one.video, goal), arm_pixels(one.video), strict=True)
  return -min(_apart(_without_bar(hue), mask, width) for hue, mask in every)


def quality(one: Imagined) -> float:
  """Minus how far the sharpness is from the last seen frame's, as a logarithm."""
  return -abs(float(np.log((sharpness(one.video) + 1e-6) / (sharpness(one.seen[-1:]) + 1e-6))))


SCORES: dict[str, Callable[[Imagined], float]] = {score.__name__: score for score in (balls, arm, truth, task, quality)}


def motion(video: UInt8[np.ndarray, "T H W 3"]) -> float:
  """The mean change of a pixel from frame to frame, of 255."""
  return float(np.abs(np.diff(video.astype(np.float32), axis=0)).mean())


def sharpness(video: UInt8[np.ndarray, "T H W 3"]) -> float:
  """The mean length of the gray picture's gradient, of 255 a pixel."""
  gray = video.astype(np.float32).mean(axis=-1)
  return float(np.hypot(*np.gradient(gray, axis=(-2, -1))).mean())


def diversity(videos: UInt8[np.ndarray, "N T H W 3"]) -> float:
  """The mean difference of a pixel between two videos of one prompt, of 255; at least two."""
  flat = videos.astype(np.float32)
  apart = [np.abs(a - b).mean() for i, a in enumerate(flat) for b in flat[:i]]
  return float(np.mean(apart))


def _without_bar(hue: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
  """Without its widest piece: no ball is as wide as the bar."""
  pieces, _ = ndimage.label(hue)
  found = ndimage.find_objects(pieces)
  if not found:
    return hue
  widest = max(range(len(found)), key=lambda i: found[i][1].stop - found[i][1].start)
  return hue & (pieces != widest + 1)


def _apart(ball: Bool[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"], width: int) -> float:
  if not ball.any() or not mask.any():
    return float(width)
  return float(ndimage.distance_transform_edt(~ball)[mask].min())
