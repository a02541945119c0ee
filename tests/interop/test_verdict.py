"""Many golden cases judged: what passes, what fails, what is skipped, and that one cannot stop the rest."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from kairos_jax.errors import KairosError
from kairos_jax.interop import parity, verdict


def write_case(folder, name, **tensors):
  (folder / f"{name}.json").write_text(json.dumps({"case": name}))
  save_file({key: np.asarray(value, np.float32) for key, value in tensors.items()}, folder / f"{name}.safetensors")
  return folder / f"{name}.json"


def double(case):
  """A model of one weight."""
  if "breaks" in case.tensors:
    raise ZeroDivisionError("no such luck\nand more of it")
  yield "y", 2 * case.tensors["x"], case.tensors["y"]
  yield "x", case.tensors["x"], case.tensors["x"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.setitem(parity.RUNNERS, "c90", (double, lambda case: 1e-3))
  return tmp_path


def judge_one(path):
  (result,) = verdict.judge([path])
  return result


def test_pass_and_worst_tensor(folder):
  result = judge_one(write_case(folder, "c90_fine", x=[1, 2], y=[2, 4.0005]))
  assert result.passed and not result.failures
  assert result.worst.tensor == "y" and result.worst.error == pytest.approx(5e-4, rel=1e-2)


@pytest.mark.parametrize("y", [[2, 4.01], [2, np.nan], [2, np.inf]])
def test_a_tensor_beyond_its_tolerance_fails(folder, y):
  result = judge_one(write_case(folder, "c90_off", x=[1, 2], y=y))
  assert not result.passed and [c.tensor for c in result.failures] == ["y"] and result.worst.tensor == "y"


@pytest.mark.parametrize(
  "tensors, line",
  [
    ({"breaks": [0]}, "ZeroDivisionError: no such luck"),
    ({"x": [1, 2]}, "KeyError: 'y'"),
    ({"x": [1, 2], "y": [1]}, "y is (2,) here and (1,) there"),
  ],
)
def test_a_case_that_raises_fails_in_one_line(folder, tensors, line):
  result = judge_one(write_case(folder, "c90_broken", **tensors))
  assert not result.passed and line in result.error and "\n" not in result.error


def test_one_broken_case_does_not_stop_the_others(folder):
  write_case(folder, "c90_a", x=[1], y=[2]).write_text("{")
  write_case(folder, "c90_b", x=[1], y=[2])
  write_case(folder, "c91_unknown", x=[1])
  broken, fine, unknown = verdict.judge(verdict.select([str(folder)]))
  assert "not readable JSON" in broken.error and fine.passed
  assert unknown.error.startswith("no runner for 'c91'") and not unknown.passed and not unknown.skipped


def test_a_case_without_a_runner_is_skipped_only_where_that_is_allowed(folder):
  path = write_case(folder, "c91_unknown", x=[1])
  (failed,), (skipped,) = verdict.judge([path]), verdict.judge([path], allow_skipped=True)
  assert failed.error == skipped.skipped and not failed.skipped and not skipped.error
  assert not failed.passed and not skipped.passed


def test_a_case_that_compares_nothing_has_not_passed(folder, monkeypatch):
  monkeypatch.setitem(parity.RUNNERS, "c90", (lambda case: iter(()), lambda case: 1e-3))
  result = judge_one(write_case(folder, "c90_empty", x=[1]))
  assert not result.passed and result.error == "it compared nothing"


def test_select(folder):
  path = write_case(folder, "c90_a", x=[1], y=[2])
  assert verdict.select([str(folder), str(path), str(path.with_suffix(""))]) == [path]
  with pytest.raises(KairosError, match="does not exist"):
    verdict.select([str(folder / "c90_b")])
