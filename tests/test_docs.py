"""What README and docs tell to type: every command line is one that the program takes, every program runs."""

import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from absl import flags

import kairos_jax
from kairos_jax.cli import arguments
from kairos_jax.cli import main as cli
from kairos_jax.runtime import WorldModel
from tests import tiny

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# At the start of a line of code, after what it sets for itself, or alone between backticks.
COMMAND = re.compile(r"(?:^(?:\w+=\S+ |\w+=\"[^\"]*\" )*|`)((?:kairos|make) [a-z][^`#\n]*)", re.MULTILINE)


def command_lines(page: Path) -> list[str]:
  """The `kairos ...` and `make ...` lines of a page; what is optional, in brackets, is taken too."""
  text = re.sub(r"^    ", "", page.read_text(), flags=re.MULTILINE)
  return [re.sub(r"[\[\]]|, ?$", "", line).strip() for line in COMMAND.findall(text)]


def blocks(page: Path, language: str) -> list[str]:
  return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


LINES = sorted({(str(page.relative_to(ROOT)), line) for page in PAGES for line in command_lines(page)})


def test_the_commands_are_found():
  found = {line for _, line in LINES}
  assert {"kairos demo --quick", "kairos bench scaling", "make demo", "kairos kernels check"} <= found, found
  assert len(LINES) > 20


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_line_of_the_docs_is_a_command(page, line, monkeypatch):
  monkeypatch.chdir(ROOT)
  program, name, *rest = shlex.split(line)
  if program == "make":
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {name, *(word for word in rest if "=" not in word)} <= set(targets) | {"PYTHON", "EXTRAS"}
    return
  assert name in cli.COMMANDS
  command, table = importlib.import_module(cli.COMMANDS[name].module), flags.FlagValues()
  argv = [f"kairos {name}", *rest]
  command.define_flags(table, argv)
  arguments.parse(table, argv)


def test_the_tutorials_data_can_be_built_and_shown(tmp_path, monkeypatch, capsys):
  lines = [line for line in command_lines(ROOT / "docs/tutorials/first_model.md") if line.startswith("kairos data")]
  build, show = (shlex.split(line)[1:] for line in lines)
  monkeypatch.chdir(tmp_path)
  assert cli.main([*build, "--counts=physics:1,hand:1,robot:1"]) == 0
  assert cli.main(show) == 0, capsys.readouterr().err


def test_the_python_of_the_docs_runs(tiny_saved, monkeypatch):
  """With an untrained model in the place of the demo's, block after block of a page."""
  model = WorldModel(dataclasses.replace(tiny_saved, frame_size=(48, 48)))
  monkeypatch.setitem(kairos_jax.__dict__, "load", lambda folder: model)
  frames = dict(frames=tiny.frames(9, 48), new_frames=tiny.frames(4, 48, seed=1), state=np.zeros(3, np.float32))
  for page in PAGES:
    names: dict = dict(frames)
    for block in blocks(page, "python"):
      exec(compile(block, str(page), "exec"), names)
    if "future" in names:
      assert names["future"].shape == (1, 16, 48, 48, 3) and len(names["actions"]) == tiny_saved.action_horizon
