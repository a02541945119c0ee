"""Drives a robot at its own rate while a server thinks: the control loop never waits for the network.

Like the client it needs nothing of this project, and can be copied beside it. Give it a function that asks the server,
and call `next_action` once in each control step:

  with Executor(policy.infer, horizon=16, execute=8) as executor:
    while not done:
      robot.move(executor.next_action(observe()))
      rate.sleep()

After `execute` actions of a chunk a new one is asked for, in a thread of its own, with what is left of the old one
(`previous`) and how many of these are expected to be gone when the answer comes (`delay`: the longest of the latest
few). The delay is counted in actions that were executed, not in time. The new chunk begins at the action that is due.
`kairos serve --chunking` makes the new chunk continue the old one; without it they are joined as they come.
"""

import collections
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_RECENT = 10  # delays that the next one is expected from
_MOST = 256  # observations that are kept for a server that does not answer


class Executor:
  """Executes chunks of actions. One thread calls it.

  Attributes:
    delays: of the latest chunks, in actions.
    held: control steps in which no action was left, and the robot had to hold.
    failure: why the latest request failed; None if it did not.
  """

  def __init__(
    self,
    infer: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    *,
    horizon: int,
    execute: int,
    hold: Callable[[np.ndarray | None], np.ndarray | None] = lambda last: None,
  ):
    """Asks nothing yet.

    Args:
      infer: gives an answer with "actions" [horizon, A] to an observation; called in another thread, one at a time.
      horizon: actions in a chunk.
      execute: actions of a chunk after which the next one is asked for, 1 to horizon - 1.
      hold: what to do without a plan, from the last action that was executed (None: there was none); None: nothing.

    Raises:
      ValueError: `execute` is out of its range.
    """
    if not 1 <= execute < horizon:
      raise ValueError(f"execute is {execute}; it must be 1 to {horizon - 1}")
    self._infer, self._horizon, self._execute, self._hold = infer, horizon, execute, hold
    self._chunk = np.zeros((0, 0))
    self._next = 0  # place in the chunk
    self._last: np.ndarray | None = None
    self._asked_at: int | None = None  # place at which the request at work was made; None: there is none
    self._observations: list[Mapping[str, Any]] = []  # since the last request
    self._sent: list[Mapping[str, Any]] = []  # with the request at work
    self.delays: collections.deque[int] = collections.deque([0], maxlen=_RECENT)
    self.held = 0
    self.failure: Exception | None = None
    self._request: Mapping[str, Any] | None = None
    self._answer: Mapping[str, Any] | Exception | None = None
    self._changed, self._ending = threading.Condition(), False
    self._thread = threading.Thread(target=self._work, name="policy", daemon=True)
    self._thread.start()

  def __enter__(self) -> "Executor":
    """Itself."""
    return self

  def __exit__(self, *_: object) -> None:
    """Ends the thread, after the request at work."""
    with self._changed:
      self._ending = True
      self._changed.notify()

  def next_action(self, observation: Mapping[str, Any]) -> np.ndarray | None:
    """What to do in this control step; returns at once. None: hold, for there is no plan.

    Args:
      observation: of now. Pictures of the steps in between are sent with the next request.
    """
    self._observations.append(observation)
    self._take_answer()
    if self._asked_at is None and (self._next >= self._execute or self._next >= len(self._chunk)):
      self._ask()
    if self._next >= len(self._chunk):
      self.held += 1
      return self._hold(self._last)
    self._last = self._chunk[self._next]
    self._next += 1
    return self._last

  def _ask(self) -> None:
    pictures = [seen["images"] for seen in self._observations]
    images = {name: np.stack([one[name] for one in pictures]) for name in pictures[0]}
    message = {**self._observations[-1], "images": images}
    previous = self._chunk[self._next :]
    if len(previous):
      message.update(previous=previous, delay=min(max(self.delays), len(previous), self._horizon - len(previous)))
    self._sent, self._observations = self._observations[-_MOST:], []
    with self._changed:
      self._asked_at, self._request, self._answer = self._next, message, None
      self._changed.notify()

  def _take_answer(self) -> None:
    with self._changed:
      answer, self._answer = self._answer, None
    if answer is None:
      return
    assert self._asked_at is not None  # it was asked for
    delay, self._asked_at = self._next - self._asked_at, None
    if isinstance(answer, Exception):
      self.failure = answer
      self._observations = (self._sent + self._observations)[-_MOST:]
      return
    self.failure = None
    self.delays.append(delay)
    self._chunk, self._next = np.asarray(answer["actions"]), delay

  def _work(self) -> None:
    while True:
      with self._changed:
        while self._request is None:
          if self._ending:
            return
          self._changed.wait()
        message, self._request = self._request, None
      answer: Mapping[str, Any] | Exception
      try:
        answer = self._infer(message)
      except Exception as error:  # the robot holds, and asks again
        answer = error
      with self._changed:
        self._answer = answer
