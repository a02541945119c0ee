"""The record: one clip of video with its captions and, where known, states and actions. Every source writes it.

The schema, with shapes and units, is in docs/data.md. Records are safetensors bytes in ArrayRecord shards.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from safetensors import SafetensorError
from safetensors.numpy import load, save

from kairos_jax.errors import KairosError


@dataclasses.dataclass(frozen=True)
class Clip:
  """One clip. action[t] leads from frame t to frame t + 1; a mask is False where nothing is labeled."""

  video: UInt8[np.ndarray, "T H W 3"]
  fps: float  # Hz
  caption: str  # detailed: what is seen and what happens
  instruction: str  # short imperative; "" if none
  state: Float32[np.ndarray, "T S"]  # S may be 0
  action: Float32[np.ndarray, "T-1 A"]  # A may be 0
  state_mask: Bool[np.ndarray, "T"]
  action_mask: Bool[np.ndarray, "T-1"]
  source: str
  embodiment: str

  def __post_init__(self):
    """Holds every clip, made or read, to the schema; KairosError on the first violation."""
    frames = self.video.shape[0] if self.video.ndim == 4 else 0
    if frames < 1 or self.video.shape[-1] != 3 or 0 in self.video.shape:
      raise KairosError(f"clip video has shape {self.video.shape}: [T, H, W, 3] with T, H, W at least 1 is allowed")
    expected = {
      "video": (np.uint8, self.video.shape),
      "state": (np.float32, (frames, self.state.shape[-1] if self.state.ndim == 2 else "S")),
      "action": (np.float32, (frames - 1, self.action.shape[-1] if self.action.ndim == 2 else "A")),
      "state_mask": (np.bool_, (frames,)),
      "action_mask": (np.bool_, (frames - 1,)),
    }
    for name, (dtype, shape) in expected.items():
      array = getattr(self, name)
      if array.dtype != dtype or array.shape != shape:
        wanted = f"{np.dtype(dtype).name} {list(shape)}"
        raise KairosError(f"clip {name} is {array.dtype} {list(array.shape)}: {wanted} is required")
    if not (math.isfinite(self.fps) and self.fps > 0):
      raise KairosError(f"clip fps is {self.fps}: a positive number of Hz is required")
    for name in ("state", "action"):
      if not np.isfinite(getattr(self, name)).all():
        raise KairosError(f"clip {name} holds NaN or infinity: unknown entries are 0 with a False mask")


_STRINGS = ("caption", "instruction", "source", "embodiment")
_FIELDS = {field.name for field in dataclasses.fields(Clip)}


def encode(clip: Clip) -> bytes:
  """A clip as safetensors bytes: arrays as they are, fps as a float64 scalar, strings as UTF-8 in uint8 tensors."""
  tensors = {name: np.ascontiguousarray(getattr(clip, name)) for name in _FIELDS - {*_STRINGS, "fps"}}
  tensors["fps"] = np.array(clip.fps, np.float64)
  for name in _STRINGS:
    tensors[name] = np.frombuffer(getattr(clip, name).encode(), np.uint8)
  return save(tensors)


def decode(record: bytes) -> Clip:
  """The clip `encode` wrote.

  Raises:
    KairosError: not safetensors, a field is missing or unknown, or a rank, dtype or length breaks the schema.
  """
  try:
    tensors = load(record)
  except (SafetensorError, ValueError, KeyError, TypeError) as error:
    raise KairosError(f"record of {len(record)} bytes is not safetensors: {error}") from error
  if tensors.keys() != _FIELDS:
    raise KairosError(f"record fields differ from the schema: {sorted(tensors.keys() ^ _FIELDS)} missing or unknown")
  if tensors["fps"].shape != ():
    raise KairosError(f"record fps has shape {list(tensors['fps'].shape)}: a scalar is required")
  fields: dict[str, Any] = {**tensors, "fps": float(tensors["fps"])}
  for name in _STRINGS:
    if tensors[name].dtype != np.uint8 or tensors[name].ndim != 1:
      raise KairosError(f"record {name} is {tensors[name].dtype}, rank {tensors[name].ndim}: UTF-8 bytes are required")
    try:
      fields[name] = tensors[name].tobytes().decode()
    except UnicodeDecodeError as error:
      raise KairosError(f"record {name} is not UTF-8: {error.reason}") from error
  return Clip(**fields)
