"""Reads pickles of plain values, PIL images and torch tensors, and can build nothing else: no name in them is imported.

What a pickle calls by name is looked up in a table of stand-ins. They keep no state, cannot be changed from within a
pickle, and make numpy arrays that are no larger than the bytes that came.
"""

import collections
import io
import math
import pickle
import pickletools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C  # of torch's legacy files
_MODES = {"RGB": 3, "L": 1, "RGBA": 4}
_MEMO = ("PUT", "BINPUT", "LONG_BINPUT")
_STORAGES = {
  "FloatStorage": "<f4",
  "DoubleStorage": "<f8",
  "HalfStorage": "<f2",
  "LongStorage": "<i8",
  "IntStorage": "<i4",
  "BoolStorage": "|b1",
  "ByteStorage": "|u1",
}


class UnsafePickle(ValueError):
  """Bytes that are no pickle, or one that names something else than arrays and images."""


def loads(data: bytes) -> Any:
  """The object in a pickle; images and tensors are numpy arrays.

  Raises:
    UnsafePickle: there is none, or it would build something else.
  """
  try:
    return _Unpickler(io.BytesIO(data), {**_TABLE, ("torch.storage", "_load_from_bytes"): _Callable(_storage)}).load()
  except UnsafePickle:
    raise
  except Exception as error:  # whatever a damaged pickle makes the reader do
    raise UnsafePickle(f"not a readable pickle: {type(error).__name__}") from error


def answer(actions: np.ndarray) -> bytes:
  """{"success": True, "output": (None, torch.tensor(actions))} as a pickle, without torch."""
  text = lambda word: b"X" + struct.pack("<I", len(word)) + word  # noqa: E731
  # Protocol 2's frame around the numbers, which are cut out of a pickle of their own: header before, stop after.
  numbers = pickle.dumps(np.asarray(actions, np.float32).astype(float).tolist(), protocol=2)[2:-1]
  tensor = b"ctorch\ntensor\n" + numbers + b"\x85R"
  return b"\x80\x02}(" + text(b"success") + b"\x88" + text(b"output") + b"N" + tensor + b"\x86u."


class _Callable:
  """A stand-in for a function, which a pickle can call and cannot change."""

  __slots__ = ("_call",)

  def __init__(self, call: Callable[..., Any]):
    self._call = call

  def __call__(self, *args: Any) -> Any:
    return self._call(*args)

  def __setstate__(self, state: Any) -> None:
    raise UnsafePickle("the pickle changes a function")


class _Image:
  """A stand-in for PIL's; `array` is what it shows."""

  __slots__ = ("array",)

  def __setstate__(self, state: Any) -> None:
    _, mode, (width, height), _, data = list(state)[:5]
    self.array = np.frombuffer(data, np.uint8).reshape(height, width, _MODES[mode])


class _Unpickler(pickle.Unpickler):
  """Finds names in a table only, and tensors' storages in another."""

  def __init__(self, file: io.BytesIO, table: dict[tuple[str, str], Any], storages: dict | None = None):
    super().__init__(file)
    self._file, self._table, self._storages = file, table, storages

  def load(self) -> Any:
    """The next object. First its opcodes are looked through, because some make the reader take memory at their word."""
    begin = self._file.tell()
    for number, (code, argument, _) in enumerate(pickletools.genops(self._file)):  # it refuses lengths beyond the end
      # A memo has room up to its highest number. Picklers count, so none is above the opcodes before it.
      if code.name in _MEMO and (argument or 0) > number:
        raise UnsafePickle("the pickle numbers its objects too high")
    self._file.seek(begin)
    return super().load()

  def find_class(self, module: str, name: str) -> Any:
    """A stand-in."""
    if (module, name) not in self._table:
      raise UnsafePickle(f"the pickle names {module[:40]}.{name[:40]}, which is not allowed")
    return self._table[module, name]

  def persistent_load(self, name: Any) -> Any:
    """A storage of the torch file that is being read, whose bytes come later."""
    if self._storages is None:
      raise UnsafePickle("the pickle names something outside itself")
    _, dtype, key, _, _ = name[:5]
    return self._storages.setdefault(key, [np.dtype(_dtype(dtype)), None])


def _storage(data: bytes) -> Any:
  """The storage in a torch file, which has no further one inside."""
  file, storages = io.BytesIO(data), dict[str, list]()
  if _Unpickler(file, _TABLE).load() != _MAGIC:
    raise UnsafePickle("a tensor's bytes are no torch file")
  for _ in range(2):  # its version, and the machine that wrote it
    _Unpickler(file, _TABLE).load()
  found = _Unpickler(file, _TABLE, storages).load()
  for key in _Unpickler(file, _TABLE).load():
    (count,) = struct.unpack("<q", file.read(8))
    dtype = storages[key][0]
    if not 0 <= count * dtype.itemsize <= len(data):
      raise UnsafePickle(f"a tensor of {count} numbers is in {len(data)} bytes")
    storages[key][1] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
  return found


def _tensor(storage: list, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
  """A view of a storage, copied; it reaches no byte outside, and repeats none often enough to be larger."""
  numbers = storage[1]
  last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
  fits = offset >= 0 and min((*size, *stride), default=0) >= 0 and math.prod(size) <= numbers.size
  if not fits or (all(size) and last >= numbers.size):
    raise UnsafePickle("a tensor reaches beyond its numbers")
  steps = [step * numbers.itemsize for step in stride]
  return np.lib.stride_tricks.as_strided(numbers[offset:], size, steps).copy()


def _dtype(name: Any) -> str:
  if name not in _STORAGES.values():
    raise UnsafePickle("a tensor of a type that is not allowed")
  return name


def _bytes(text: str, encoding: str) -> bytes:
  if encoding != "latin1":
    raise UnsafePickle("the pickle encodes text as something else than latin1")
  return str.encode(text, "latin1")


_TABLE: dict[tuple[str, str], Any] = {
  ("_codecs", "encode"): _Callable(_bytes),
  ("collections", "OrderedDict"): _Callable(collections.OrderedDict),
  ("PIL.Image", "Image"): _Image,
  ("torch._utils", "_rebuild_tensor_v2"): _Callable(_tensor),
  **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


def picture(image: Any) -> np.ndarray:
  """The pixels of an image that `loads` gave. Raises UnsafePickle if it is none."""
  if not isinstance(image, _Image) or image.array.shape[-1] != 3:
    raise UnsafePickle("input_image must be an RGB image")
  return image.array
