"""Tile sizes that were tuned on a device, kept in `tiles.json`; where there are none an op estimates its own.

The file is {op: {device kind: {key: {"tiles": {...}, "seconds": ..., "date": ...}}}}; a key names shape and dtype.
"""

import datetime
import functools
import json
import os
import pathlib
from collections.abc import Mapping

import jax

PATH = pathlib.Path(__file__).with_name("tiles.json")


def target_kind() -> str:
  """Kind of the device that is compiled for: that of the abstract mesh in use, else of the first device at hand."""
  return (jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]).device_kind


def lookup(op: str, device_kind: str, key: str) -> dict[str, int] | None:
  """The tile sizes tuned for an op on this kind of device at this key, or None if nobody has tuned them."""
  entry = _table(PATH).get(op, {}).get(device_kind, {}).get(key)
  return None if entry is None else dict(entry["tiles"])


def save(op: str, device_kind: str, key: str, tiles: Mapping[str, int], seconds: float) -> None:
  """Writes the tile sizes that took `seconds`, and today's date; replaces what was there at this key."""
  table = json.loads(PATH.read_text())
  entry = {"tiles": dict(tiles), "seconds": seconds, "date": datetime.date.today().isoformat()}
  table.setdefault(op, {}).setdefault(device_kind, {})[key] = entry
  temporary = PATH.with_name(f".{PATH.name}.{os.getpid()}")
  temporary.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n")
  os.replace(temporary, PATH)
  _table.cache_clear()


@functools.cache
def _table(path: pathlib.Path) -> dict:
  return json.loads(path.read_text())
