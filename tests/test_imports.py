"""The walls between the packages: each contract of .importlinter, and the names that only the assembly may know."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / ".importlinter"
SECTION = "importlinter:contract:"


def contracts():
  parser = configparser.ConfigParser()
  parser.read(CONFIG)
  for section in parser.sections():
    if section.startswith(SECTION):
      yield section.removeprefix(SECTION)


@pytest.mark.parametrize("name", list(contracts()))
def test_contract(name):
  """In a process of its own, because the linter keeps hold of the output stream that it finds."""
  call = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(*sys.argv[1:2], (sys.argv[2],)))"
  run = subprocess.run([sys.executable, "-c", call, CONFIG, name], cwd=ROOT, capture_output=True, text=True)
  assert run.returncode == 0, run.stdout + run.stderr


# A kind is what a config or a saved model calls a part.
PARTS = {"PcaCodec", "TextBridge", "TextBridgeConfig"}
MAY_NAME = ("kairos_jax/codec/", "kairos_jax/bridge/", "kairos_jax/assembly.py")


def names_in(path: Path) -> set[str]:
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Name):
      found.add(node.id)
    elif isinstance(node, ast.Attribute):
      found.add(node.attr)
    elif isinstance(node, ast.alias):
      found.update({node.name, node.asname or node.name})
  return found


def test_only_the_assembly_names_a_concrete_part():
  modules = sorted((ROOT / "kairos_jax").rglob("*.py"))
  modules = [path for path in modules if not str(path.relative_to(ROOT)).startswith(MAY_NAME)]
  named = {str(path.relative_to(ROOT)): sorted(names_in(path) & PARTS) for path in modules}
  assert not {path: names for path, names in named.items() if names}


# Who uses the library behind the console, beside the console itself, and why.
DRAW_THEMSELVES = {
  "kairos_jax/console.py",
  "kairos_jax/training/start.py",  # makes a table that is text, for the log
}


def test_only_the_console_speaks_to_the_screen():
  found = set()
  for package in ("kairos_jax", "data_pipelines", "pallas_kernels"):
    for path in (ROOT / package).rglob("*.py"):
      modules = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom | ast.Import)
      ]
      if any("rich" in ast.unparse(node).replace(".", " ").split() for node in modules):
        found.add(str(path.relative_to(ROOT)))
  assert found == DRAW_THEMSELVES


def test_a_name_is_found_however_it_is_written(tmp_path):
  source = tmp_path / "x.py"
  source.write_text("from a import PcaCodec as P\nimport b\nx = b.TextBridge\n# TextBridgeConfig\n")
  assert names_in(source) & PARTS == {"PcaCodec", "TextBridge"}
