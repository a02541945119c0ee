"""A clip's signature: perceptual hashes of 64 bits over time, which scaling and recoding hardly change."""

import base64

import numpy as np
from jaxtyping import Int, UInt64
from PIL import Image
from scipy import fft

from data_pipelines.curation.operators.view import View

VERSION = 1
HZ = 8.0
_SIDE, _KEPT = 32, 8
_CONTRAST = 4.0  # of the 32 x 32 luminance, standard deviation; a frame with less has nothing to be known by


def signature(view: View) -> UInt64[np.ndarray, "N"]:
  """Eight hashes a second; 0 stands for a frame without contrast."""
  small = np.stack(
    [
      np.asarray(
        Image.fromarray(view.video[tick]).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32
      )
      for tick in view.ticks(HZ)
    ]
  )
  # The mean is left out by beginning at the second frequency in both directions.
  low = fft.dctn(small, axes=(1, 2))[:, 1 : _KEPT + 1, 1 : _KEPT + 1].reshape(len(small), -1)
  bits = low > np.median(low, axis=1, keepdims=True)
  hashes = np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)
  return np.where(small.std(axis=(1, 2)) < _CONTRAST, np.uint64(0), hashes)


def distance(first: UInt64[np.ndarray, "*#N"], second: UInt64[np.ndarray, "*#N"]) -> Int[np.ndarray, "*N"]:
  """Bits that differ."""
  return np.bitwise_count(first ^ second).astype(int)


def to_text(hashes: UInt64[np.ndarray, "N"]) -> str:
  """For a ledger."""
  return base64.b64encode(hashes.astype("<u8").tobytes()).decode()


def from_text(text: str) -> UInt64[np.ndarray, "N"]:
  """What `to_text` gave."""
  return np.frombuffer(base64.b64decode(text), "<u8").astype(np.uint64)
