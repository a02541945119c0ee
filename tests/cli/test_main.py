"""The command line: help that teaches, mistakes told in one line, light to start."""

import subprocess
import sys
import textwrap

import pytest

from kairos_jax.cli import main as cli
from kairos_jax.errors import KairosError

PROBE = '''
"""Help of the probe.

usage: kairos probe --config=FILE
"""
from absl import flags
from kairos_jax.cli import arguments
from kairos_jax.errors import KairosError

def define_flags(table, argv):
  arguments.define_config(table, argv)
  flags.DEFINE_string("workdir", None, "where to write", flag_values=table)
  flags.DEFINE_string("fail", "", "how to fail", flag_values=table)

def run(values, arguments):
  if values.fail == "user":
    raise KairosError("too hot: 99, at most 20")
  if values.fail == "interrupt":
    raise KeyboardInterrupt
  if values.fail == "bug":
    raise ZeroDivisionError("halves of nothing\\nand more")
  if values.fail == "system":
    open("tiny.py/x", "w")
  print(values.config and values.config.train.steps, values.workdir, arguments)
'''

CONFIG = """
from ml_collections import ConfigDict

def get_config(arg="3"):
  return ConfigDict(dict(train=dict(steps=int(arg)), name="x"))
"""


@pytest.fixture
def probe(tmp_path, monkeypatch):
  """A subcommand of the test's own and a config file beside it; returns a function that runs a command line."""
  (tmp_path / "probe_command.py").write_text(PROBE.lstrip())
  (tmp_path / "tiny.py").write_text(CONFIG)
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.setitem(cli.COMMANDS, "probe", cli.Command("probe_command", "a command for this test"))
  yield lambda *argv: cli.main(["probe", *argv])
  sys.modules.pop("probe_command", None)


def test_config_overrides_reach_the_command(probe, capsys):
  assert probe("--config=tiny.py", "--config.train.steps=10", "--workdir=runs/x", "go") == 0
  assert capsys.readouterr().out == "10 runs/x ['go']\n"
  assert probe("--config", "tiny.py:7") == 0
  assert capsys.readouterr().out == "7 None []\n"


@pytest.mark.parametrize(
  "argv, line",
  [
    (["--confg=tiny.py"], "unknown flag --confg; did you mean config?"),
    (["--config=tiny.py", "--config.train.stepz=3"], "unknown config key stepz; did you mean steps?"),
    (["--config=tiny.py", "--config.trian.steps=3"], "unknown config key trian; did you mean train?"),
    (["--config=tinny.py"], "no config file 'tinny.py'; did you mean tiny.py?"),
    (["--config=nowhere/tiny.py"], "no config file 'nowhere/tiny.py'"),
    (["--config.train.steps=3"], "--config.train.steps needs --config=FILE.py before it"),
    (["--config=tiny.py", "--config.train.steps=abc"], "flag --config.train.steps=abc: invalid literal for int()"),
    (["--config=tiny.py", "--config.name.x=1"], "a --config override names a key below a plain value"),
    (["--config=tiny.py:hot"], "invalid literal for int() with base 10: 'hot'"),
    (["--fail=user"], "too hot: 99, at most 20"),
  ],
)
def test_a_mistake_is_one_line_and_exit_code_2(probe, capsys, argv, line):
  assert probe(*argv) == 2
  out, err = capsys.readouterr()
  assert not out and err.startswith("kairos: ") and err.count("\n") == 1 and line in err, err


def test_interrupt(probe, capsys):
  assert probe("--fail=interrupt") == 130
  assert capsys.readouterr().err == "kairos: interrupted\n"


def test_a_bug_is_one_line_and_its_traceback_a_file(probe, capsys, tmp_path, monkeypatch):
  monkeypatch.setattr(cli.tempfile, "tempdir", str(tmp_path))
  assert probe("--fail=bug") == 1
  (written,) = tmp_path.glob("kairos-*.traceback")
  line = f"kairos: unexpected ZeroDivisionError: halves of nothing; its traceback is in {written}\n"
  assert capsys.readouterr().err == line
  assert "in run\n" in written.read_text() and written.read_text().startswith("Traceback")


def test_what_the_file_system_refuses_is_one_line(probe, capsys):
  assert probe("--fail=system") == 2
  assert capsys.readouterr().err == "kairos: tiny.py/x: Not a directory\n"


@pytest.mark.parametrize(("device", "asked", "want"), [("", None, "cpu"), ("nvidia0", None, None), ("", "tpu", "tpu")])
def test_jax_looks_for_no_accelerator_where_there_is_none(probe, monkeypatch, tmp_path, device, asked, want):
  """Else the compilers for absent chips, which tests install, fill the screen."""
  if device:
    (tmp_path / device).touch()
  monkeypatch.setattr(cli, "ACCELERATORS", [f"{tmp_path}/nvidia[0-9]*"])
  environment = {} if asked is None else {"JAX_PLATFORMS": asked}
  monkeypatch.setattr(cli.os, "environ", environment)
  assert cli.main(["probe"]) == 0
  assert environment.get("JAX_PLATFORMS") == want


def test_unknown_command(capsys):
  assert cli.main(["dta"]) == 2
  assert capsys.readouterr().err == "kairos: unknown command 'dta'; did you mean data?\n"


def test_help_teaches(probe, capsys):
  assert cli.main([]) == 0
  overview = capsys.readouterr().out
  assert all(f"  {name}" in overview and command.summary in overview for name, command in cli.COMMANDS.items())
  assert overview.count("  kairos ") >= 2
  assert probe("--help") == 0
  assert "Help of the probe." in (text := capsys.readouterr().out) and "--workdir" in text and "where to write" in text


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_help_of_each_command_loads_nothing_heavy(name):
  code = f"""
    import sys
    from kairos_jax.cli.main import main
    code = main([{name!r}, "--help"])
    sys.exit(code or " ".join({{"jax", "mujoco", "matplotlib", "grain"}} & set(sys.modules)) or 0)
  """
  result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  assert "usage" in result.stdout and "flags:" in result.stdout


def test_kairos_error_is_an_exception_of_its_own():
  assert KairosError.__bases__ == (Exception,)
