"""The folder of a run belongs to one config."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from kairos_jax.errors import KairosError
from kairos_jax.files import replaced


def claim_workdir(workdir: Path | str, config: Mapping[str, Any], may_change: Collection[str] = ()) -> None:
  """Writes `config` to `{workdir}/config.json`, or checks that the folder was started with the same.

  Args:
    workdir: folder of the run.
    config: nested dicts of plain values.
    may_change: dotted keys whose values may differ; config.json then takes the new ones.

  Raises:
    KairosError: if the folder belongs to another config (names the first key that differs), its config.json is
      unreadable, or `config` holds a value that JSON cannot.
  """
  path = Path(workdir) / "config.json"
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
