"""Command-line arguments: absl flags in a table of their own, and every mistake told in one line."""

import difflib
import os
import re
from collections.abc import Iterable, Sequence

from absl import flags
from ml_collections import config_flags

from kairos_jax.errors import KairosError


def define_config(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds `--config=FILE.py` and an override for each of its keys, as in `--config.train.steps=10`."""
  config_flags.DEFINE_config_file(
    "config", None, "the experiment: a .py file with get_config()", flag_values=table, sys_argv=list(argv)
  )


def parse(table: flags.FlagValues, argv: Sequence[str]) -> list[str]:
  """Reads `argv` (program name first) into `table` and returns what is left: the positional arguments.

  Raises:
    KairosError: an unknown flag or config key, a value of the wrong type, a config file that is not there.
  """
  for path in _config_paths(argv):
    if not os.path.isfile(path):
      raise KairosError(f"no config file {path!r}{did_you_mean(path, _python_files_beside(path))}")
  try:
    return table(list(argv))[1:]
  except flags.UnrecognizedFlagError as error:
    if error.flagname.startswith("config."):
      raise KairosError(f"--{error.flagname} needs --config=FILE.py before it") from None
    raise KairosError(f"unknown flag --{error.flagname}{did_you_mean(error.flagname, table)}") from None
  except (AttributeError, KeyError) as error:  # how ml_collections tells of an unknown key
    key, *hint = re.findall(r"\w+(?=\\*['\"])", str(error))
    raise KairosError(f"unknown config key {key}" + (f"; did you mean {hint[0]}?" if hint else "")) from None
  except TypeError:
    raise KairosError("a --config override names a key below a plain value") from None
  except flags.Error as error:
    raise KairosError(_one_line(str(error))) from None


def flags_only(command: str, positional: Sequence[str]) -> None:
  """That a command was given nothing but flags.

  Raises:
    KairosError: it was given more.
  """
  if positional:
    raise KairosError(f"{command} takes no argument but flags; got {' '.join(positional)}")


def need_folders(values: flags.FlagValues, names: Iterable[str]) -> None:
  """That flags which name folders are given.

  Raises:
    KairosError: one is missing.
  """
  for name in names:
    if not values[name].value:
      raise KairosError(f"flag --{name} is missing; allowed: a folder")


def did_you_mean(word: str, known: Iterable[str]) -> str:
  """`"; did you mean X?"` for the closest of the known words, or an empty string."""
  close = difflib.get_close_matches(word, list(known), n=1)
  return f"; did you mean {close[0]}?" if close else ""


def _config_paths(argv: Sequence[str]) -> list[str]:
  """The files named by `--config=FILE.py[:argument]` or `--config FILE.py`."""
  values = [arg.split("=", 1)[1] for arg in argv if arg.lstrip("-").startswith("config=") and arg.startswith("-")]
  values += [value for arg, value in zip(argv, argv[1:], strict=False) if arg in ("-config", "--config")]
  return [value.split(":", 1)[0] for value in values]


def _python_files_beside(path: str) -> list[str]:
  folder = os.path.dirname(path)
  names = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
  return [os.path.join(folder, name) for name in names if name.endswith(".py")]


def _one_line(message: str) -> str:
  """Only the first and last line of a message that carries a traceback in between."""
  lines = [line.strip() for line in message.splitlines() if line.strip()]
  return " ".join(dict.fromkeys([lines[0], lines[-1]]))
