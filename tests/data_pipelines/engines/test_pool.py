"""Processes that die under the work."""

import functools
import os
import signal
from pathlib import Path

import pytest

from data_pipelines.engines import pool


class Work:
  """Squares a number; on one it kills its process."""

  def __init__(self, deadly, folder):
    self.deadly, self.folder = deadly, folder

  def __call__(self, item):
    with (Path(self.folder) / f"{item}").open("a") as file:
      file.write("x")
    if item == self.deadly:
      os.kill(os.getpid(), signal.SIGKILL)
    if item == "wrong":
      raise ValueError("on purpose")
    return item * item


@pytest.mark.parametrize("processes", [1, 2])
def test_every_item_has_its_result(tmp_path, processes):
  results = dict(pool.run(functools.partial(Work, None, str(tmp_path)), range(7), processes))
  assert results == {item: item * item for item in range(7)}
  assert {path.read_text() for path in tmp_path.iterdir()} == {"x"}


def test_a_process_that_is_killed_costs_its_item_alone(tmp_path):
  results = dict(pool.run(functools.partial(Work, 3, str(tmp_path)), range(9), 2))
  assert isinstance(results.pop(3), pool.WorkerDied)
  assert results == {item: item * item for item in range(9) if item != 3}


def test_what_the_work_raises_ends_the_run(tmp_path):
  with pytest.raises(ValueError, match="on purpose"):
    list(pool.run(functools.partial(Work, None, str(tmp_path)), [1, "wrong", 2], 2))
