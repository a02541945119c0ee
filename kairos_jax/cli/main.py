"""The `kairos` command: finds the subcommand, loads only its module, and turns errors into one line.

A subcommand is a module whose docstring is its help text, with two functions:

  define_flags(table: flags.FlagValues, argv: Sequence[str])  adds its flags; argv is the whole command line
  run(values: flags.FlagValues, arguments: list[str])         does the work; heavy imports belong in here; what it
                                                              returns is the exit code, None being 0
"""

import glob
import importlib
import logging as python_logging
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags, logging

from kairos_jax.cli import arguments
from kairos_jax.errors import KairosError


class Command(NamedTuple):
  """Where a subcommand lives, and what it does in one line."""

  module: str
  summary: str


COMMANDS = {
  "demo": Command("kairos_jax.cli.demo", "grow a model from nothing in minutes, watch it imagine and act"),
  "train": Command("kairos_jax.cli.train", "train an experiment's curriculum"),
  "plan": Command("kairos_jax.cli.plan", "whether a run fits a slice of accelerators, and how fast it would be there"),
  "evaluate": Command("kairos_jax.cli.evaluate", "success of a trained model in closed loop, beside its baselines"),
  "quantize": Command("kairos_jax.cli.quantize", "write a model again with its large matrices in 8 or 4 bits"),
  "merge": Command("kairos_jax.cli.merge", "make one model of several that were trained from one"),
  "evolve": Command("kairos_jax.cli.evolve", "let a policy get better by acting, and judge every round"),
  "value": Command("kairos_jax.cli.value", "how well the video tower tells, while an episode runs, how it will end"),
  "prefer": Command("kairos_jax.cli.prefer", "let a model's imagination learn what is preferred, and report the rest"),
  "align": Command("kairos_jax.cli.align", "find the words that a video model obeys, by rolling out and rewriting"),
  "ablate": Command("kairos_jax.cli.ablate", "train a grid of towers on a task of memory, and compare them"),
  "serve": Command("kairos_jax.cli.serve", "serve a trained model to robots over a websocket"),
  "play": Command("kairos_jax.cli.play", "watch a model's imagination on a page, and steer it"),
  "export": Command("kairos_jax.cli.export", "write a model as programs or ONNX that run without this project"),
  "data": Command("kairos_jax.cli.data", "make datasets: rendered here, or imported from robot and video formats"),
  "act": Command("kairos_jax.cli.act", "a chunk of actions from pictures and a robot's state, by a released model"),
  "generate": Command("kairos_jax.cli.generate", "a video from words and a picture, by a released model"),
  "convert": Command("kairos_jax.cli.convert", "official weight files to a model of ours, and back"),
  "models": Command("kairos_jax.cli.models", "list the released models: parameters, memory and files"),
  "parity": Command("kairos_jax.cli.parity", "hold the model against golden data of the reference"),
  "bench": Command("kairos_jax.cli.bench", "measure what longer videos, the kernels and a model's answers cost"),
  "kernels": Command("kairos_jax.cli.kernels", "compile the Pallas kernels for chips that are not here, and tune them"),
  "rollout": Command("kairos_jax.cli.rollout", "imagine minutes of video, in constant time and memory a segment"),
}

# TPUs, NVIDIA GPUs, and GPUs as Linux under Windows sees them.
ACCELERATORS = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*", "/dev/dxg")

EXAMPLES = """\
  kairos demo --quick
  kairos train --config=experiments/cue_reach.py --workdir=runs/cue_reach --config.train.steps=1000
  kairos plan --config=experiments/pods.py:joint_480p --topology=v5p:4x4x4
  kairos evaluate --model=runs/cue_reach
  kairos rollout --model=runs/demo --minutes=10
  kairos serve --model=runs/demo
  kairos play --model=runs/demo
  kairos export --model=runs/demo --out=runs/exported
  kairos quantize --model=runs/demo --bits=8 --out=runs/demo_int8
  kairos merge --models=runs/a,runs/b --method=soup --out=runs/merged
  kairos evolve --model=runs/base --demonstrations=runs/data/robot --method=filtered --out=runs/evolved
  kairos prefer --model=runs/demo --data=runs/demo/data/robot --score=arm --out=runs/preferred
  kairos align --model=runs/worded --out=runs/aligned
  kairos bench scaling
  kairos bench kernels --op=gated_delta
  kairos kernels check --targets=v5e,v6e
  kairos models
  kairos convert --model=kairos-4B-robot-RoboTwin2.0 --weights=models --out=runs/wam
  kairos parity tests/goldens
  kairos data build --out=runs/data --counts=physics:200,hand:200,robot:400
  kairos data show --folder=runs/data/robot
  kairos data import --from=lerobot --path=pusht --out=runs/pusht --embodiment=slide_arm
"""


# What the file system says of a path that the user named: no right to write, a file for a folder, a folder for a file.
_REFUSED_BY_THE_SYSTEM = (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command line (without the program's name) and returns its exit code.

  It is the command's own; 2 for a mistake of the user; 130 after Ctrl-C; 1 for an error that nobody foresaw, whose
  traceback goes to a file.
  """
  try:
    return _dispatch(list(sys.argv[1:] if argv is None else argv))
  except KairosError as error:
    print(f"kairos: {error}", file=sys.stderr)
    return 2
  except _REFUSED_BY_THE_SYSTEM as error:
    print(f"kairos: {error.filename}: {error.strerror}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("kairos: interrupted", file=sys.stderr)
    return 130
  except Exception as error:  # a bug
    print(_unforeseen(error), file=sys.stderr)
    return 1


def _dispatch(argv: list[str]) -> int:
  name, *rest = argv or ["--help"]
  if name in ("help", "--help", "-h"):
    print(_overview())
    return 0
  if name not in COMMANDS:
    hint = arguments.did_you_mean(name, COMMANDS) or f"; commands are {', '.join(COMMANDS)}"
    raise KairosError(f"unknown command {name!r}{hint}")

  if not any(glob.glob(pattern) for pattern in ACCELERATORS):
    # The compilers for chips that are not here may be: JAX would try each of them, and print a page about it.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
  # What was compiled once is kept: stages of equal shape, and runs that go on, start at once.
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/kairos_jax"))
  command = importlib.import_module(COMMANDS[name].module)
  table, line = flags.FlagValues(), [f"kairos {name}", *rest]
  command.define_flags(table, line)
  if {"--help", "-h", "-help"} & set(rest):
    print(_command_help(command.__doc__ or "", table))
    return 0
  positional = arguments.parse(table, line)
  flags.FLAGS.mark_as_parsed()  # libraries read absl's own table; it holds nothing of ours
  _log_our_own()
  return command.run(table, positional) or 0


def _unforeseen(error: Exception) -> str:
  """One line about an error that nobody foresaw, and where its traceback was written."""
  with tempfile.NamedTemporaryFile("w", prefix="kairos-", suffix=".traceback", delete=False) as file:
    file.write("".join(traceback.format_exception(error)))
  first = next(iter(str(error).splitlines()), "")
  return f"kairos: unexpected {type(error).__name__}{': ' if first else ''}{first}; its traceback is in {file.name}"


def _log_our_own() -> None:
  """What this project announces, as plain lines; the libraries below it speak up from warnings on."""
  python_logging.basicConfig(format="%(message)s")
  logging.set_verbosity(logging.INFO)
  ours = tuple(f"{os.sep}{package}{os.sep}" for package in ("kairos_jax", "data_pipelines", "pallas_kernels"))
  logging.get_absl_logger().addFilter(
    lambda record: record.levelno >= python_logging.WARNING or any(name in record.pathname for name in ours)
  )


def _overview() -> str:
  width = max(map(len, COMMANDS))
  lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
  return "\n".join(
    [
      "usage: kairos COMMAND [--flag=value ...]\n",
      "A world-action model: it imagines what happens next, and acts on it.\n",
      "commands:",
      *lines,
      "\nexamples:",
      EXAMPLES,
      "kairos COMMAND --help tells more.",
    ]
  )


def _command_help(docstring: str, table: flags.FlagValues) -> str:
  width = max((len(name) for name in table), default=0)
  lines = []
  for name in table:
    default = "" if table[name].default is None else f" (default {table[name].default})"
    lines.append(f"  --{name:<{width}}  {table[name].help}{default}")
  return "\n".join([docstring.strip(), "", "flags:", *lines])
