"""Files that lie anywhere: on this machine, or in a store that fsspec knows (gs://, s3://, az://).

A location of this machine is a `pathlib.Path`, and one in a store an `epath.Path`, which has the same methods. A store
has no links, its objects do not grow and are replaced as a whole, and libraries that want a file cannot open them. What
that asks for is here and nowhere else. A store's own package (gcsfs, s3fs, adlfs) is in the extra `stores`.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import fsspec
from etils import epath

from kairos_jax.errors import KairosError

Location: TypeAlias = Path | epath.Path
CACHE = "KAIROS_CACHE"  # environment variable: the folder of files that were fetched
CACHE_GB = "KAIROS_CACHE_GB"  # and how large it may get
_LATE = 10.0  # seconds by which a store's copy of a growing file may be behind


class Damaged(KairosError):
  """A file in a store is not the one that was written."""


def at(path: str | os.PathLike[str]) -> Location:
  """The location of a path or an address.

  Raises:
    KairosError: an address of an unknown store, or one whose package is not installed.
  """
  text = os.fspath(path)
  if "://" not in text:
    return Path(text)
  protocol = text.partition("://")[0]
  if protocol not in ("gs", "s3", "az"):
    raise KairosError(f"{text} is in no known store: gs://, s3:// and az:// are")
  try:
    fsspec.get_filesystem_class(protocol)
  except ImportError as error:
    raise KairosError(f"{text} needs a package of its store: pip install 'kairos-jax[stores]'") from error
  return epath.Path(text)


@contextlib.contextmanager
def fetched(path: str | os.PathLike[str]) -> Iterator[Path]:
  """A file of this machine with the content of that one, as long as the block lasts.

  Raises:
    FileNotFoundError: there is none.
  """
  location = at(path)
  if isinstance(location, Path):
    yield location
    return
  with tempfile.TemporaryDirectory() as folder:
    copy = Path(folder, location.name)
    _get(location, copy)
    yield copy


@contextlib.contextmanager
def stored(path: Location) -> Iterator[Path]:
  """A file of this machine to be written, whose content takes the place of `path` at once when the block ends well."""
  if isinstance(path, Path):
    # In the same folder, because a name is replaced at once only within a file system.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
      yield temporary
      sync(temporary)
      os.replace(temporary, path)
      sync(path.parent)
    finally:
      temporary.unlink(missing_ok=True)
    return
  with tempfile.TemporaryDirectory() as folder:
    temporary = Path(folder, path.name)
    yield temporary
    _put(temporary, path)


@contextlib.contextmanager
def growing(path: Location) -> Iterator[tuple[Path, Callable[[], None]]]:
  """A file of this machine that goes on where `path` ends, and what is to be called after each addition.

  A store's copy follows at most some seconds later, and at the end in any case.
  """
  if isinstance(path, Path):
    yield path, lambda: None
    return
  with tempfile.TemporaryDirectory() as folder:
    copy = Path(folder, path.name)
    with contextlib.suppress(FileNotFoundError):
      _get(path, copy)
    last = time.monotonic()

    def added() -> None:
      nonlocal last
      if time.monotonic() - last >= _LATE:
        _put(copy, path)
        last = time.monotonic()

    try:
      yield copy, added
    finally:
      if copy.exists():
        _put(copy, path)


def cached(path: Location, sha256: str) -> Path:
  """A file of this machine with the content of that one, which stays: fetched once, named and checked by its hash.

  Files that were not asked for longest go when the cache gets larger than `KAIROS_CACHE_GB` (100) times 10^9 bytes; a
  process that has one open keeps it. A file that lies on this machine is no copy, and not checked.

  Raises:
    Damaged: the content is another one.
    KairosError: it is alone larger than the cache.
    FileNotFoundError: there is none.
  """
  if isinstance(path, Path):
    return path
  folder = Path(os.environ.get(CACHE, "~/.cache/kairos_jax")).expanduser()
  copy = folder / sha256
  if not copy.is_file():
    size, most = path.stat().length, round(float(os.environ.get(CACHE_GB, "100")) * 1e9)
    if size > most:
      raise KairosError(f"{path} has {size} bytes: the cache {folder} holds {most} ({CACHE_GB} says how many GB)")
    folder.mkdir(parents=True, exist_ok=True)
    _make_room(folder, most - size)
    with stored(copy) as partial:
      _get(path, partial)
      with partial.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
      if found != sha256:
        raise Damaged(f"{path} is not what was written: its hash is {found[:12]}, {sha256[:12]} is expected")
  now = time.time_ns()
  os.utime(copy, ns=(now, now))
  return copy


def _make_room(folder: Path, most: int) -> None:
  """Removes what was not asked for longest until no more than `most` bytes are left."""
  with_age = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in folder.iterdir())
  total = sum(size for _, size, _ in with_age)
  for _, size, file in with_age:
    if total <= most:
      return
    file.unlink(missing_ok=True)
    total -= size


def link(path: Location, target: Location) -> None:
  """The same content under a second name: a link, or a copy where there is no such thing."""
  if isinstance(path, Path) and isinstance(target, Path):
    try:
      os.link(path, target)
    except OSError:
      with stored(target) as partial:
        shutil.copyfile(path, partial)
    return
  store, name = fsspec.core.url_to_fs(os.fspath(path))
  store.copy(name, fsspec.core.url_to_fs(os.fspath(target))[1])


def remove_folder(path: Location) -> None:
  """Removes a folder and all in it, if it is there."""
  if isinstance(path, Path):
    shutil.rmtree(path, ignore_errors=True)
  elif path.exists():
    path.rmtree()


def sync(path: Path) -> None:
  """Waits until a file's content, or a folder's list of names, is on the disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


def _get(path: epath.Path, copy: Path) -> None:
  store, name = fsspec.core.url_to_fs(os.fspath(path))
  store.get_file(name, str(copy))


def _put(copy: Path, path: epath.Path) -> None:
  store, name = fsspec.core.url_to_fs(os.fspath(path))
  store.put_file(str(copy), name)
