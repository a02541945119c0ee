"""A ledger: a file of JSON lines that grows by one whole line at a time, and survives being cut off anywhere."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from absl import logging

from kairos_jax import locations
from kairos_jax.errors import KairosError
from kairos_jax.locations import Location


class Ledger:
  """Appends entries to a file, for one writer at a time.

    with Ledger(path) as ledger:
      ledger.append({"clip": "a.mp4#0-150", ...})

  What a writer that was killed has left of a last line is removed on opening.
  """

  def __init__(self, path: str | Location):
    self._path = locations.at(path)

  def __enter__(self) -> "Ledger":
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._growing = locations.growing(self._path)
    here, self._added = self._growing.__enter__()
    self._file = here.open("a+b")
    self._file.truncate(_whole(self._file.seek(0, os.SEEK_END), here))
    return self

  def append(self, entry: dict[str, Any]) -> None:
    """Adds one line, which another process can read from now on.

    Raises:
      KairosError: a score is NaN or infinite, or the entry is not JSON.
    """
    try:
      line = json.dumps(entry, ensure_ascii=False, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
      raise KairosError(f"ledger {self._path}: an entry is not JSON: {error}") from error
    self._file.write(line.encode("utf-8", "replace") + b"\n")
    self._file.flush()
    self._added()

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    try:
      os.fsync(self._file.fileno())
    finally:
      self._file.close()
      self._growing.__exit__(None, None, None)


def read(path: str | Location) -> Iterator[dict[str, Any]]:
  """The entries of a ledger, in order; none if there is no file.

  A line without an end, which its writer may still be writing, is no entry. One that is not JSON, as a disk that was
  full may leave, is told and passed over.
  """
  path = locations.at(path)
  if not path.is_file():
    return
  with path.open("rb") as file:
    for number, line in enumerate(file, 1):
      if not line.endswith(b"\n"):
        return
      try:
        entry = json.loads(line)
        if not isinstance(entry, dict):
          raise ValueError("not an object")
      except (ValueError, RecursionError) as error:
        logging.warning("%s: line %d is no entry: %s", path, number, error)
        continue
      yield entry


def _whole(size: int, path: Path) -> int:
  """Bytes up to the end of the last whole line."""
  with path.open("rb") as file:
    end = size
    while end > 0:
      start = max(0, end - 2**16)
      file.seek(start)
      place = file.read(end - start).rfind(b"\n")
      if place >= 0:
        return start + place + 1
      end = start
  return 0
