"""Official files with random numbers in them: what a released model's files would be, to try everything on.

Each tensor draws by its own name, so a file is the same whenever it is written.
"""

import math
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import ml_dtypes
import numpy as np

from kairos_jax.interop.stream_writer import Slot, StreamWriter
from kairos_jax.released.catalog import Released
from kairos_jax.released.convert import VAE

_BLOCK = 1 << 20  # numbers that are drawn of a tensor, again and again; five billion would take minutes
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def write(model: Released, out: Path, *, on_piece: Callable[[int], None] = lambda size: None) -> Path:
  """Writes REPOSITORY/FILE in bfloat16 and the autoencoder's file in float32; returns the first."""
  home = out / model.config.repository
  home.mkdir(parents=True, exist_ok=True)
  file = home / model.config.files[0]
  _write(file, {name: Slot(BFLOAT16, shape) for name, shape in model.tower_shapes().items()}, on_piece)
  hollow = jax.tree.map(lambda x: np.broadcast_to(np.uint8(0), x.shape), model.codec.param_shapes())
  shapes = {name: x.shape for name, x in model.codec.to_reference(hollow).items()}  # type: ignore[attr-defined]
  _write(out / VAE, {name: Slot(np.dtype(np.float32), shape) for name, shape in shapes.items()}, on_piece)
  return file


def _write(file: Path, slots: dict[str, Slot], on_piece: Callable[[int], None]) -> None:
  writer = StreamWriter(file, slots, resume=False)
  for name, slot in slots.items():
    values = draw(name, slot.shape, slot.dtype)
    writer.write(name, values)
    on_piece(values.nbytes)
  writer.sync()
  writer.finish()


def draw(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """Numbers of a trained tensor's size: matrices by their width, what scales around 1, the rest small."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  deviation = max(1, math.prod(shape[1:])) ** -0.5 if len(shape) > 1 else 0.02
  scale = len(shape) == 1 and name.endswith("weight") or name.endswith("gamma")
  block = rng.standard_normal(min(_BLOCK, math.prod(shape)), np.float32) * np.float32(deviation) + np.float32(scale)
  return np.resize(block.astype(dtype), shape)
