"""Files that are either whole or not there."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def replaced(path: str | os.PathLike) -> Iterator[str]:
  """Yields a temporary path in the same folder, which takes the place of `path` when the block ends well.

  The folder is made if need be; the temporary name keeps the suffix, by which writers choose a format.
  """
  target = pathlib.Path(path)
  target.parent.mkdir(parents=True, exist_ok=True)
  temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
  try:
    yield str(temporary)
    os.replace(temporary, target)
  finally:
    temporary.unlink(missing_ok=True)
