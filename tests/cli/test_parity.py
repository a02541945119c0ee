"""`kairos parity`: its lines and its exit codes."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from kairos_jax.cli import main as cli
from kairos_jax.interop import parity


@pytest.fixture
def write_case(tmp_path, monkeypatch):
  """Writes a case whose error is `off`; the model under test is the identity."""
  runner = lambda case: ((name, x, case.tensors["x"]) for name, x in case.tensors.items())  # noqa: E731
  monkeypatch.setitem(parity.RUNNERS, "c90", (runner, lambda case: 1e-3))

  def write(name, off=0.0):
    (tmp_path / f"{name}.json").write_text(json.dumps({"case": name}))
    save_file({"x": np.ones(3, np.float32), "z": np.full(3, 1 + off, np.float32)}, tmp_path / f"{name}.safetensors")

  return write


def test_all_pass(write_case, tmp_path, capsys):
  write_case("c90_a", off=5e-4)
  assert cli.main(["parity", str(tmp_path)]) == 0
  header, line, _, total = capsys.readouterr().out.splitlines()
  assert header.split() == ["case", "tensors", "error", "allowed", "tensor"]
  assert line.split() == ["c90_a", "ok", "2", "5.0e-04", "0.001", "z"]
  assert total == "1 cases passed, 0 failed, 0 skipped"


def test_a_failure_is_told_and_is_exit_code_1(write_case, tmp_path, capsys):
  write_case("c90_a")
  write_case("c90_b", off=0.5)
  assert cli.main(["parity", str(tmp_path)]) == 1
  out = capsys.readouterr().out
  assert "c90_b  FAILED" in out
  assert [line.split() for line in out.splitlines() if line.startswith(" ")] == [["FAILED", "5.0e-01", "0.001", "z"]]
  assert out.endswith("1 cases passed, 1 failed, 0 skipped\n")


def test_a_case_without_a_runner_fails_unless_it_may_be_skipped(write_case, tmp_path, capsys):
  write_case("c90_a")
  write_case("c91_c")
  assert cli.main(["parity", str(tmp_path)]) == 1
  out = capsys.readouterr().out
  assert "c91_c  FAILED   no runner for 'c91'; there are c01" in out
  assert out.endswith("1 cases passed, 1 failed, 0 skipped\n")
  assert cli.main(["parity", str(tmp_path), "--allow-skipped"]) == 0
  out = capsys.readouterr().out
  assert "c91_c  skipped  no runner for 'c91'" in out and out.endswith("1 cases passed, 0 failed, 1 skipped\n")


def test_a_fault_of_the_reference_is_skipped_with_the_reason(write_case, tmp_path, capsys):
  write_case("c90_a")
  write_case("c90_b_as_shipped", off=0.5)
  assert cli.main(["parity", str(tmp_path)]) == 0
  out = capsys.readouterr().out
  assert "c90_b_as_shipped  skipped  as shipped, most layers of V1" in out
  assert out.endswith("1 cases passed, 0 failed, 1 skipped\n")


def test_all_prints_every_tensor(write_case, tmp_path, capsys):
  write_case("c90_a")
  assert cli.main(["parity", "--all", str(tmp_path / "c90_a")]) == 0
  assert [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith(" ")] == ["x", "z"]


def test_nothing_ran_is_exit_code_2(write_case, tmp_path, capsys):
  write_case("c91_a")
  assert cli.main(["parity", str(tmp_path), "--allow-skipped"]) == 2
  assert "0 cases passed, 0 failed, 1 skipped" in capsys.readouterr().out


@pytest.mark.parametrize("argv, line", [([], "parity needs a golden case"), (["nowhere"], "nowhere does not exist")])
def test_a_mistake_is_one_line(argv, line, capsys):
  assert cli.main(["parity", *argv]) == 2
  err = capsys.readouterr().err
  assert err.startswith("kairos: ") and line in err and err.count("\n") == 1
