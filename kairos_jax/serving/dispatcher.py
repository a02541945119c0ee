"""From many connections to one device: a queue, a thread that owns the engine, and deadlines.

The thread takes what waits when the device is free, at most one request of a session and at most a batch. It never
waits for a batch to fill. A request that would miss its deadline is refused when it arrives: what the batches before it
and its own take is longer than it has. One that they have made late all the same is refused when its turn comes, and
the device is given to those whose answers are of use.
"""

import asyncio
import collections
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

from absl import logging

from kairos_jax.errors import KairosError
from kairos_jax.runtime.slots import bucket
from kairos_jax.serving.engine import Answer, Engine, Full
from kairos_jax.serving.metrics import Metrics
from kairos_jax.serving.observation import Request

_FADE = 0.99  # of the longest lag of the event loop, with every answer
_RECENT = 10.0  # seconds for which a batch's time is remembered


class Refused(Exception):
  """The server does not take a request. `code`: overloaded, draining or internal."""

  def __init__(self, code: str, message: str):
    super().__init__(message)
    self.code = code


class Pace:
  """What batches of one size take.

  Attributes:
    best: seconds of one on a device that did nothing else.
  """

  def __init__(self, best: float):
    self.best = self._promise = best
    self._recent: collections.deque[tuple[float, float]] = collections.deque()  # when, and how many seconds

  def learn(self, now: float, seconds: float) -> None:
    """Takes another batch into account."""
    self._recent.append((now, seconds))
    self._measure()

  def promise(self, now: float) -> float:
    """Seconds that of the recent batches all but one in fifty kept to, and at least all but one.

    What is long ago is forgotten, or a device that was slow once would be refused to all who could show that it is not.
    """
    if self._recent and self._recent[0][0] < now - _RECENT:
      while self._recent and self._recent[0][0] < now - _RECENT:
        self._recent.popleft()
      self._measure()
    return self._promise

  def _measure(self) -> None:
    times = sorted(seconds for _, seconds in self._recent)
    self._promise = times[-2 - len(times) // 50] if len(times) > 1 else self.best


@dataclasses.dataclass
class _Job:
  """A request, or something else that the thread shall do with the engine in the session's order."""

  session: str
  future: asyncio.Future[Any]
  request: Request | None
  deadline: float  # of time.monotonic()
  act: Callable[[], Any] | None = None
  waits: bool = True  # for others that came before it


class Dispatcher:
  """Owns the device thread. Its coroutines belong to one event loop."""

  def __init__(self, engine: Engine, metrics: Metrics, *, deadline: float):
    """Does not start yet.

    Args:
      engine: from now on the thread's own.
      metrics: are counted here.
      deadline: seconds that a request has which names none.
    """
    self._engine, self._metrics, self._deadline = engine, metrics, deadline
    self._queue: collections.deque[_Job] = collections.deque()
    self._changed = threading.Condition()
    self._busy_until = 0.0  # when the batch at work should be done; 0: the device is free
    self._paces: dict[int, Pace] = {}  # of batches, by their size
    self._lag = 0.0  # seconds that the event loop was late at most, lately
    self._state = "new"
    self._thread = threading.Thread(target=self._run, name="device", daemon=True)

  def start(self) -> None:
    """Compiles everything, which can take minutes, and starts the thread."""
    self._paces = {size: Pace(seconds) for size, seconds in self._engine.warm_up().items()}
    self._state = "open"
    self._thread.start()

  async def infer(self, session: str, request: Request, arrived: float) -> Answer:
    """The answer to a request that arrived at this moment of time.monotonic().

    Raises:
      Refused: it would come too late, there are too many sessions, or the server is ending.
      KairosError: the engine refuses it.
    """
    return await self._put(session, request, arrived + self.admit(request.deadline, arrived))

  def admit(self, deadline: float | None, arrived: float) -> float:
    """Seconds that a request has which arrived at this moment of time.monotonic(); None: it does not say.

    Raises:
      Refused: it would come too late, or the server is ending.
    """
    allowed = self._deadline if deadline is None else deadline
    late = time.monotonic() - arrived
    with self._changed:
      if self._state != "open":
        raise Refused("draining", "the server is ending")
      if (wait := late + self._wait()) > allowed:
        text = f"an answer would take {1000 * wait:.0f} ms; the deadline is {1000 * allowed:.0f} ms"
        raise Refused("overloaded", text)
    return allowed

  async def reset(self, session: str) -> None:
    """Forgets what a session saw, after what it has already asked."""
    await self._put(session, None, float("inf"), lambda: self._engine.reset(session))

  async def release(self, session: str) -> None:
    """Gives up a session's memory, after what it has already asked."""
    await self._put(session, None, float("inf"), lambda: self._engine.release(session))

  async def release_idle(self, seconds: float) -> list[str]:
    """Gives up the memories of sessions that have asked nothing for so long."""
    return await self._put("", None, float("inf"), lambda: self._engine.release_idle(seconds))

  async def drain(self) -> None:
    """Takes no requests any more, and returns when those that were taken are answered and the thread has ended."""
    with self._changed:
      self._state = "draining"
      self._changed.notify()
    while self._thread.is_alive():
      await asyncio.sleep(0.01)

  def _wait(self) -> float:
    """Seconds until a request that comes now would be answered, as far as one can tell."""
    waiting, now = sum(job.request is not None for job in self._queue), time.monotonic()
    if not waiting and not self._busy_until:
      return self._paces[1].best  # a free device takes who comes
    # Later ones may fill the batch. A busy event loop is as late in reading requests as it is in sending answers.
    batches = waiting // self._engine.batch + 1
    busy = max(0.0, self._busy_until - now)
    return busy + batches * self._paces[self._engine.batch].promise(now) + 2 * self._lag

  async def _put(self, session: str, request: Request | None, deadline: float, act: Any = None) -> Any:
    job = _Job(session, asyncio.get_running_loop().create_future(), request, deadline, act)
    with self._changed:
      if not self._thread.is_alive():
        raise Refused("draining", "the server is ending")
      job.waits = bool(self._queue or self._busy_until)
      self._queue.append(job)
      self._metrics.queue.set(len(self._queue))
      self._changed.notify()
    return await job.future

  def _run(self) -> None:
    while True:
      with self._changed:
        self._busy_until = 0.0
        while not self._queue:
          if self._state == "draining":
            return
          self._changed.wait()
        jobs = self._take()
        now = time.monotonic()
        self._busy_until = now + self._paces[bucket(len(jobs))].promise(now)
        self._metrics.queue.set(len(self._queue))
      self._work(jobs)
      self._metrics.sessions.set(self._engine.sessions)

  def _take(self) -> list[_Job]:
    """One job of something else, or requests of different sessions, oldest first; the order of a session is kept."""
    if self._queue[0].act is not None:
      return [self._queue.popleft()]
    taken: dict[str, _Job] = {}
    passed: set[str] = set()  # sessions with a job that stays
    left: collections.deque[_Job] = collections.deque()
    for job in self._queue:
      if job.act is None and job.session not in passed and len(taken) < self._engine.batch and job.session not in taken:
        taken[job.session] = job
      else:
        passed.add(job.session)
        left.append(job)
    self._queue = left
    return list(taken.values())

  def _work(self, jobs: list[_Job]) -> None:
    now = time.monotonic()
    if (act := jobs[0].act) is not None:
      self._tell(jobs[0], act())
      return
    sent = now + self._paces[bucket(len(jobs))].promise(now) + self._lag
    for job in [job for job in jobs if job.future.cancelled() or (sent if job.waits else now) > job.deadline]:
      self._tell(job, Refused("overloaded", "the requests before it took longer than they should have"))
      jobs.remove(job)
    requests = {job.session: job.request for job in jobs if job.request is not None}
    if not requests:
      return
    try:
      answers = self._engine.infer(requests)
    except Exception:
      logging.exception("a batch of %d requests failed", len(jobs))
      for job in jobs:
        self._engine.release(job.session)
        self._tell(job, Refused("internal", "the server failed; the session's memory was lost"))
      return
    ended = time.monotonic()
    seconds = ended - now
    self._paces[bucket(len(jobs))].learn(ended, seconds)
    self._metrics.batch_seconds.observe(seconds)
    self._metrics.batch_size.observe(len(jobs))
    for job in jobs:
      answer = answers[job.session]
      self._tell(job, Refused("overloaded", str(answer)) if isinstance(answer, Full) else answer)

  def _tell(self, job: _Job, result: Any) -> None:
    """Gives a result, or an error, to the coroutine that waits; nothing if nobody does any more."""
    told = time.monotonic()

    def settle() -> None:
      self._lag = max(time.monotonic() - told, _FADE * self._lag)
      if not job.future.done():
        failed = isinstance(result, Refused | KairosError)
        job.future.set_exception(result) if failed else job.future.set_result(result)

    with contextlib.suppress(RuntimeError):  # the loop has ended
      job.future.get_loop().call_soon_threadsafe(settle)
