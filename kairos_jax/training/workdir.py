"""The folder of a run belongs to one config, and to one process at a time."""

import fcntl
import json
import os
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kairos_jax.errors import KairosError
from kairos_jax.files import replaced
from kairos_jax.parallel import process


@contextmanager
def claim_workdir(workdir: Path | str, config: Mapping[str, Any], may_change: Collection[str] = ()) -> Iterator[None]:
  """Holds the folder for the block, having checked that it is new or was started with the same config.

  Writes `{workdir}/config.json`, and `{workdir}/lock`, which names the holder. The lock itself is the operating
  system's, so it goes with the process, however that ends. Of several processes of one run, the first one holds it.

  Args:
    workdir: folder of the run.
    config: nested dicts of plain values.
    may_change: dotted keys whose values may differ; config.json then takes the new ones.

  Raises:
    KairosError: if another process holds the folder (names it), the folder is a file or not writable or belongs to
      another config (names the first key that differs), its config.json is unreadable, or `config` holds a value that
      JSON cannot.
  """
  if not process.is_first():
    yield
    return
  try:
    Path(workdir).mkdir(parents=True, exist_ok=True)
    lock = open(Path(workdir) / "lock", "a+")
  except OSError as error:
    raise _unusable(workdir, error) from None
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      lock.seek(0)
      holder = lock.read().strip() or "another process"
      raise KairosError(f"{workdir} is in use by {holder}: wait for it, or use another --workdir") from None
    except OSError as error:
      raise _unusable(workdir, error) from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    _check_config(Path(workdir) / "config.json", config, may_change)
    yield


def _unusable(workdir: Path | str, error: OSError) -> KairosError:
  return KairosError(f"{workdir} cannot hold a run: {error.strerror}; --workdir is a folder that can be written")


def _check_config(path: Path, config: Mapping[str, Any], may_change: Collection[str]) -> None:
  try:
    text = json.dumps(config, indent=2, sort_keys=True)
  except TypeError as error:
    raise KairosError(f"config: {error}; allowed are numbers, strings, booleans, None, lists and dicts") from None
  if path.exists():
    _check_same(path, json.loads(text), may_change)
  if not path.exists() or path.read_text() != text + "\n":
    with replaced(path) as partial:
      Path(partial).write_text(text + "\n")


def _check_same(path: Path, config: dict[str, Any], may_change: Collection[str]) -> None:
  try:
    old = _flatten(json.loads(path.read_text()))
  except ValueError:
    raise KairosError(f"{path} is not readable JSON: give another --workdir or delete this one") from None
  new = _flatten(config)
  for key in sorted(old.keys() | new.keys()):
    before, now = (tree.get(key, "absent") for tree in (old, new))
    if before != now and key not in may_change:
      raise KairosError(
        f"{path.parent} was started with config.{key}={before}, now {now}: use the old value or another --workdir"
      )


def _flatten(tree: dict, prefix: str = "") -> dict:
  flat: dict = {}
  for key, value in tree.items():
    flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
  return flat
