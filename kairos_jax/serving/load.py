"""A policy server under load, as its clients see it: what is answered, what is refused, how soon, what an end loses."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import websockets.asyncio.client

from kairos_jax.errors import KairosError
from kairos_jax.resident import resident_bytes
from kairos_jax.serving.client import AsyncClient, ServerError, pack

STARTS = 600.0  # seconds in which a server must have compiled
_PATIENT_MS = 60_000  # deadline of requests that shall not be refused


class Asked(NamedTuple):
  """One request.

  Attributes:
    began: when it was sent, on the clock of `time.perf_counter`.
    seconds: until its answer.
    outcome: "answered", the code with which it was refused, or "lost": the connection ended first.
    inside: seconds of these that the server spent on it, by its own account.
    begun: whether the server's memory of the session began with it.
  """

  began: float
  seconds: float
  outcome: str
  inside: float = 0.0
  begun: bool = False


class Summary(NamedTuple):
  """Requests of one outcome: how many in a second, and quantiles of their seconds (NaN where there are none)."""

  rate: float
  p50: float
  p99: float
  longest: float


def summarize(asked: Sequence[Asked], outcome: str, seconds: float) -> Summary:
  """Those of an outcome, of requests that were asked for so many seconds."""
  times = [one.seconds for one in asked if one.outcome == outcome]
  quantiles = np.quantile(times, [0.5, 0.99, 1.0]) if times else [float("nan")] * 3
  return Summary(len(times) / seconds, *(float(x) for x in quantiles))


def observation(metadata: Mapping[str, Any], seed: int) -> dict[str, Any]:
  """What a robot of this server sees when it asks again: noise, one frame for each step."""
  rng, (height, width) = np.random.default_rng(seed), metadata["picture_size"]
  video = rng.integers(0, 256, (metadata["replan"], height, width, 3), np.uint8)
  return {
    "images": dict.fromkeys(metadata["cameras"], video),
    "state": np.zeros(metadata["state_dim"], np.float32),
    "prompt": "",
  }


@contextlib.asynccontextmanager
async def robots(
  uri: str, count: int, *, patience: float = 60.0, session: str | None = None
) -> AsyncIterator[list[AsyncClient]]:
  """So many clients, each with a session that has begun; each trial's have the same names, or one robot the given one.

  Raises:
    KairosError: the server does not answer one of them.
  """
  async with contextlib.AsyncExitStack() as stack:
    names = [session or f"robot-{number}" for number in range(count)]
    some = [await stack.enter_async_context(AsyncClient(uri, session_id=name, patience=patience)) for name in names]
    for one in some:
      first = await ask(one, observation(one.metadata, 0) | {"deadline_ms": _PATIENT_MS})
      if first.outcome != "answered":
        raise KairosError(f"a robot's first request to {uri} was not answered but {first.outcome}")
    yield some


@contextlib.contextmanager
def on_one_processor() -> Iterator[None]:
  """Robots are other machines: meanwhile they take no more than this machine's last processor (Linux)."""
  if not hasattr(os, "sched_setaffinity"):
    yield
    return
  every = os.sched_getaffinity(0)
  os.sched_setaffinity(0, {max(every)})
  try:
    yield
  finally:
    os.sched_setaffinity(0, every)


async def closed_loop(clients: Sequence[AsyncClient], going_on: Callable[[], bool]) -> list[Asked]:
  """Every robot asks as soon as it is answered: what a server can do. Nobody is refused for want of time."""

  async def drive(client: AsyncClient, seed: int) -> list[Asked]:
    seen = observation(client.metadata, seed) | {"deadline_ms": _PATIENT_MS}
    asked: list[Asked] = []
    while going_on() and (not asked or asked[-1].outcome == "answered"):
      asked.append(await ask(client, seen))
    return asked

  each = await asyncio.gather(*(drive(client, seed) for seed, client in enumerate(clients)))
  return [one for asked in each for one in asked]


async def open_loop(
  clients: Sequence[AsyncClient], rate: float, seconds: float, deadline: float
) -> tuple[list[Asked], int]:
  """Requests come at a rate that does not depend on the answers, each from a robot that waits for none.

  Returns:
    (asked, missing): the requests, and how many there were no robots left for.
  """
  idle, asked, missing = list(clients), list[Asked](), 0
  seen = observation(clients[0].metadata, 1) | {"deadline_ms": round(1000 * deadline)}

  async def one(client: AsyncClient) -> None:
    asked.append(await ask(client, seen))
    idle.append(client)

  began, tasks = time.perf_counter(), []
  for number in range(round(rate * seconds)):
    await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
    if idle:
      tasks.append(asyncio.create_task(one(idle.pop(0))))
    else:
      missing += 1
  await asyncio.gather(*tasks)
  return asked, missing


async def disturb(uri: str, going_on: Callable[[], bool], seed: int = 0) -> int:
  """Sends malformed messages, each on a connection of its own, and returns how many.

  Raises:
    KairosError: an answer tells more than one line, or how the server is made.
  """
  rng, count = np.random.default_rng(seed), 0
  while going_on():
    async with websockets.asyncio.client.connect(uri, compression=None) as connection:
      await connection.recv()
      message = bytearray(pack({"images": {"front": np.zeros((2, 4, 4, 3), np.uint8)}, "count": count}))
      for place in rng.integers(len(message), size=1 + count % 4):
        message[place] = rng.integers(256)
      await connection.send(bytes(message))
      answer = await connection.recv()
    if not isinstance(answer, str) or "\n" in answer or "Traceback" in answer:
      raise KairosError(f"a malformed message was answered with {answer[:200]!r}")
    count += 1
  return count


async def ask(client: AsyncClient, seen: Mapping[str, Any]) -> Asked:
  """One request, and how it ended."""
  began = time.perf_counter()
  try:
    answer = await client.infer(seen)
  except ServerError as error:
    return Asked(began, time.perf_counter() - began, error.code)
  except (ConnectionError, TimeoutError):
    return Asked(began, time.perf_counter() - began, "lost")
  inside = answer["server_timing"]["infer_ms"] / 1000
  return Asked(began, time.perf_counter() - began, "answered", inside, answer["begun"])


class Process:
  """A server in a process of its own, on a free port, which is the same after a restart."""

  def __init__(self, *arguments: str):
    """Not started yet; `arguments` of `kairos serve`."""
    with socket.socket() as one:
      one.bind(("127.0.0.1", 0))
      port = one.getsockname()[1]
    call = "import sys; from kairos_jax.cli.main import main; sys.exit(main(sys.argv[1:]))"
    self._command = [sys.executable, "-c", call, "serve", f"--port={port}", *arguments]
    self.uri = f"ws://127.0.0.1:{port}"
    self._process: subprocess.Popen[bytes] | None = None

  def start(self) -> float:
    """Starts it, and returns the seconds until it takes requests. Raises KairosError if it does not."""
    self._process, began = subprocess.Popen(self._command), time.monotonic()
    while time.monotonic() < began + STARTS and self._process.poll() is None:
      with contextlib.suppress(OSError, urllib.error.URLError):
        urllib.request.urlopen(self.uri.replace("ws", "http") + "/readyz", timeout=5).close()
        return time.monotonic() - began
      time.sleep(0.1)
    raise KairosError(f"the server did not start: exit code {self._process.poll()}")

  def resident_bytes(self) -> int:
    """Memory that it holds (Linux)."""
    assert self._process is not None  # it was started
    return resident_bytes(self._process.pid)

  def send(self, number: signal.Signals) -> None:
    """Sends a signal."""
    assert self._process is not None  # it was started
    self._process.send_signal(number)

  def end(self) -> None:
    """Ends it at once, if it runs."""
    if self._process is not None and self._process.poll() is None:
      self._process.kill()
      self._process.wait()

  def wait(self) -> int:
    """Its exit code, when it has ended."""
    assert self._process is not None  # it was started
    return self._process.wait(60)


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[Process]:
  """A started server that ends with the block."""
  process = Process(*arguments)
  try:
    process.start()
    yield process
  finally:
    process.end()
