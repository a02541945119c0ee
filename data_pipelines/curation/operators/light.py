"""Measures of a clip that need nothing but numpy and scikit-image; each a number whose bounds decide."""

import numpy as np
from scipy import ndimage
from skimage.registration import optical_flow_ilk

from data_pipelines.curation.operators.view import View

_FLOW_PAIRS = 6  # of neighboring frames that are looked at
_FLOW_WIDTH = 64
_BORDER = 4.0  # what a row's pixels may differ by, at most, for it to be a border: their standard deviation over time


def seconds(view: View) -> float:
  """Length of the clip."""
  return len(view.video) / view.clip.video_fps


def luminance(view: View) -> float:
  """Mean luminance, 0 to 255."""
  return float(view.gray.mean())


def blur(view: View) -> float:
  """Variance of the Laplacian of a typical frame: low for a blurred one."""
  return float(np.median([ndimage.laplace(frame).var() for frame in view.gray]))


def motion(view: View) -> float:
  """Mean length of the optical flow, in percent of the picture's width a second (iterative Lucas-Kanade)."""
  video, fps = view.video, view.clip.video_fps
  if len(video) < 2:
    return 0.0
  step = max(1, video.shape[2] // _FLOW_WIDTH)
  starts = np.linspace(0, len(video) - 2, min(_FLOW_PAIRS, len(video) - 1)).astype(int)
  lengths = []
  for start in starts:
    first, second = (_shrunk(video[index].mean(axis=2, dtype=np.float32), step) for index in (start, start + 1))
    if min(first.shape) < 2 or first.std() < 1e-3 and second.std() < 1e-3:
      lengths.append(0.0)  # nothing whose motion could be seen
      continue
    flow = optical_flow_ilk(first / 255, second / 255, radius=4, num_warp=4)
    lengths.append(float(np.hypot(flow[0], flow[1]).mean()) / first.shape[1])
  return 100 * fps * float(np.mean(lengths))


def still(view: View) -> float:
  """The share of sampled frames that are like the one before: a frozen picture, a slide, a repeated frame."""
  if len(view.gray) < 2:
    return 0.0
  return float((np.abs(np.diff(view.gray, axis=0)).mean(axis=(1, 2)) < 0.3).mean())


def letterbox(view: View) -> float:
  """The share of the picture that is a border: rows and columns at its edges that are flat and never change."""
  gray = view.gray
  kept = 1.0
  for axis in (1, 2):
    lines = np.moveaxis(gray, axis, 1).reshape(len(gray), gray.shape[axis], -1)
    flat = (lines.std(axis=2).max(axis=0) < _BORDER) & (lines.mean(axis=2).std(axis=0) < _BORDER)
    inside = np.flatnonzero(~flat)
    kept *= (inside[-1] + 1 - inside[0]) / len(flat) if len(inside) else 0.0
  return 1.0 - kept


def labeled(view: View) -> float | None:
  """The share of actions that are labeled, which NaN and infinite ones are not; none for a body without actions."""
  mask = view.clip.action_mask
  return float(mask.mean()) if view.clip.action.shape[1] and len(mask) else None


def _shrunk(picture: np.ndarray, step: int) -> np.ndarray:
  """By means of step x step pixels."""
  height, width = (side // step * step for side in picture.shape)
  if min(height, width) == 0:
    return picture
  return picture[:height, :width].reshape(height // step, step, width // step, step).mean(axis=(1, 3))
