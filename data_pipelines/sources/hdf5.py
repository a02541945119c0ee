"""Arrays of an hdf5 file within bounds: no links out of it, no claim of size is believed, nothing is unpickled."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.sources.episode import Frames, LeftOut
from data_pipelines.sources.images import decoded
from data_pipelines.sources.options import needed

MAX_BYTES = 2**28  # of an array of states, actions or times
_MAX_IMAGE = 2**26  # bytes of one encoded image
_BLOCK = 16  # frames read at once


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
  """The file, for reading.

  Raises:
    LeftOut: it is not there, or not hdf5.
    KairosError: h5py is not installed.
  """
  h5py = needed("h5py", "hdf5")
  try:
    file = h5py.File(path, "r")
  except OSError as error:
    raise LeftOut("file cannot be opened", f"{path.name}: {error}") from error
  with file:
    yield file


def find(group: Any, key: str) -> Any:
  """The group or dataset of a path below `group`; None if there is none.

  Raises:
    LeftOut: a link on the way, or the data themselves, leave the file.
  """
  h5py = needed("h5py", "hdf5")
  for part in key.split("/"):
    if not isinstance(group, h5py.Group):
      return None
    link = group.get(part, getlink=True)
    if link is None:
      return None
    if isinstance(link, h5py.ExternalLink):
      raise LeftOut("path leaves its file", f"{key} is a link to {link.filename}")
    group = group.get(part)
  if isinstance(group, h5py.Dataset) and (group.external or group.is_virtual):
    raise LeftOut("path leaves its file", f"{key} lies in another file")
  return group


def has(group: Any, key: str) -> bool:
  """Whether there are data of this path, and not only the empty array that stands for them in some files."""
  found = find(group, key)
  return found is not None and (not hasattr(found, "shape") or found.size is not None and found.size > 0)


def array(group: Any, key: str, *shape: int | None) -> np.ndarray:
  """Numbers of a path, of this shape; None is any length.

  Raises:
    LeftOut: they are missing, of another shape, not numbers, or claim to be larger than `MAX_BYTES`.
  """
  data = _dataset(group, key, shape)
  if data.dtype.kind not in "biuf":
    raise LeftOut("field of another type", f"{key} is {data.dtype}")
  if data.nbytes > MAX_BYTES:
    raise LeftOut("field too large", f"{key} claims {data.nbytes} bytes")
  return data[()]


def text(group: Any, key: str) -> str:
  """A text that lies in a dataset; "" if there is none."""
  data = find(group, key)
  if data is None or getattr(data, "shape", None) != () or data.dtype.kind not in "OS":
    return ""
  value = data[()]
  return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def raw_frames(group: Any, key: str) -> tuple[int, Frames]:
  """How many there are, and the frames of an array uint8 [T, H, W, 3], a block in memory at a time."""
  data = _dataset(group, key, (None, None, None, 3))
  if data.dtype != np.uint8:
    raise LeftOut("field of another type", f"{key} is {data.dtype}, uint8 is required")
  if int(np.prod(data.shape[1:])) > _MAX_IMAGE:
    raise LeftOut("frames too large", f"{key} has frames of {data.shape[2]} x {data.shape[1]}")

  def blocks() -> Frames:
    for start in range(0, len(data), _BLOCK):
      yield from data[start : start + _BLOCK]

  return len(data), blocks()


def encoded_frames(group: Any, key: str) -> tuple[int, Frames]:
  """How many there are, and the images of an array [T] of encoded bytes, of fixed or of free length."""
  data = _dataset(group, key, (None,))
  if data.dtype.kind not in "SOV" or data.dtype.itemsize > _MAX_IMAGE:
    raise LeftOut("field of another type", f"{key} is {data.dtype}, encoded images are required")

  def images() -> Frames:
    for index in range(len(data)):
      value = data[index]
      content = value.tobytes() if isinstance(value, np.ndarray) else bytes(value)
      yield decoded(content)

  return len(data), images()


def _dataset(group: Any, key: str, shape: Sequence[int | None]) -> Any:
  data = find(group, key)
  if data is None or not hasattr(data, "shape"):
    raise LeftOut("field missing", key)
  there = data.shape or ()
  if len(there) != len(shape) or any(want not in (None, size) for want, size in zip(shape, there, strict=True)):
    raise LeftOut("field of another shape", f"{key} is {list(there)}, {list(shape)} is required")
  # A chunk is decompressed as a whole, whatever part of it is read: a file of a few kB can claim one of 4 GB.
  if data.chunks and (claimed := math.prod(data.chunks) * data.dtype.itemsize) > MAX_BYTES:
    raise LeftOut("field too large", f"{key} has chunks of {claimed} bytes")
  return data
