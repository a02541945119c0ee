"""The folder of a run belongs to one config."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from kairos_jax.errors import KairosError
from kairos_jax.files import replaced


def claim_workdir(workdir: Path | str, config: ConfigDict) -> None:
  """Writes `config` to `{workdir}/config.json`, or checks that the folder was started with exactly this config.

  Raises:
    KairosError: if the folder belongs to another config (names the first key that differs), its config.json is
      unreadable, or `config` holds a value that JSON cannot.
  """
  path = Path(workdir) / "config.json"
  try:
    text = json.dumps(config.to_dict(), indent=2, sort_keys=True)
  except TypeError as error:
    raise KairosError(f"config: {error}; allowed are numbers, strings, booleans, None, lists and dicts") from None
  if not path.exists():
    with replaced(path) as partial:
      Path(partial).write_text(text + "\n")
    return
  try:
    old = _flatten(json.loads(path.read_text()))
  except ValueError:
    raise KairosError(f"{path} is not readable JSON: give another --workdir or delete this one") from None
  new = _flatten(json.loads(text))
  for key in sorted(old.keys() | new.keys()):
    before, now = (tree.get(key, "absent") for tree in (old, new))
    if before != now:
      raise KairosError(
        f"{workdir} was started with config.{key}={before}, now {now}: use the old value or another --workdir"
      )


def _flatten(tree: dict, prefix: str = "") -> dict:
  flat: dict = {}
  for key, value in tree.items():
    flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
  return flat
