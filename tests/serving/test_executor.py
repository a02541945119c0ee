"""The executor against a server that answers when the test lets it: nothing waits, no action is repeated or skipped."""

import threading
import time

import numpy as np
import pytest

from kairos_jax.serving.executor import Executor

HORIZON, EXECUTE = 8, 3


class Server:
  """Chunk n is n + 0.00, n + 0.01, ...; it answers when it is let."""

  def __init__(self):
    self.requests, self._may, self.broken = [], threading.Semaphore(0), False

  def infer(self, message):
    self.requests.append(message)
    assert self._may.acquire(timeout=10)
    if self.broken:
      raise ConnectionError("gone")
    return {"actions": len(self.requests) + np.arange(HORIZON)[:, None] / 100}

  def answer(self, executor):
    self._may.release()
    deadline = time.monotonic() + 10
    while executor._answer is None:
      assert time.monotonic() < deadline
      time.sleep(0.001)

  def wait_for(self, count):
    deadline = time.monotonic() + 10
    while len(self.requests) < count:
      assert time.monotonic() < deadline
      time.sleep(0.001)


def observation(step):
  return {"images": {"front": np.full((2, 2, 3), step, np.uint8)}, "state": np.float32([step])}


@pytest.fixture
def setup():
  server = Server()
  with Executor(server.infer, horizon=HORIZON, execute=EXECUTE) as executor:
    yield server, executor


def run(executor, steps):
  """What it does in some steps: actions, or None for holding."""
  actions = [executor.next_action(observation(step)) for step in steps]
  return [None if action is None else round(float(action[0]), 2) for action in actions]


def test_a_chunk_that_comes_late_goes_on_where_the_old_one_is(setup):
  server, executor = setup
  assert run(executor, range(2)) == [None, None] and executor.held == 2
  server.answer(executor)
  assert run(executor, range(2, 8)) == [1.00, 1.01, 1.02, 1.03, 1.04, 1.05]  # asked for the second in step 5
  server.wait_for(2)
  server.answer(executor)
  assert run(executor, range(8, 10)) == [2.03, 2.04] and list(executor.delays)[-1] == 3
  server.wait_for(3)  # in step 8 three actions of the second are over
  first, second, third = server.requests
  assert "previous" not in first and first["images"]["front"].shape == (1, 2, 2, 3)
  np.testing.assert_allclose(second["previous"][:, 0], [1.03, 1.04, 1.05, 1.06, 1.07])
  assert second["delay"] == 0 and third["delay"] == 3
  assert second["images"]["front"][:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5] and second["state"] == [5]
  assert third["images"]["front"][:, 0, 0, 0].tolist() == [6, 7, 8]
  server.answer(executor)


def test_a_server_that_is_gone_makes_the_robot_hold_and_is_asked_again(setup):
  server, executor = setup
  run(executor, [0])
  server.answer(executor)
  server.broken = True
  assert run(executor, range(1, 6)) == [1.00, 1.01, 1.02, 1.03, 1.04]
  server.wait_for(2)
  server.answer(executor)
  assert run(executor, range(6, 11)) == [1.05, 1.06, 1.07, None, None] and executor.held == 3
  assert isinstance(executor.failure, ConnectionError)
  server.wait_for(3)
  server.broken = False
  server.answer(executor)
  assert run(executor, range(11, 13))[0] == 3.03 and executor.failure is None
  assert server.requests[2]["images"]["front"][:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]  # none is lost


def test_the_loop_does_not_wait(setup):
  _, executor = setup
  began = time.monotonic()
  run(executor, range(100))
  assert time.monotonic() - began < 1.0


@pytest.mark.parametrize("execute", [0, HORIZON])
def test_execute_is_within_a_chunk(execute):
  with pytest.raises(ValueError, match="execute is"):
    Executor(lambda _: {}, horizon=HORIZON, execute=execute)
