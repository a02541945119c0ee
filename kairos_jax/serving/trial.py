"""What a server is put through, one trial after the other, and what came out: `kairos bench serving`."""

import asyncio
import signal
import time
from typing import NamedTuple

import numpy as np

from kairos_jax.serving import load
from kairos_jax.serving.load import Asked, Process, Summary

OVERLOAD = 4  # times what the server can do


class Alone(NamedTuple):
  """One robot: all of a request's seconds, and those of them that were not the server's."""

  answered: Summary
  network: float


class Overload(NamedTuple):
  """Requests at several times the capacity.

  Attributes:
    offered: requests in a second.
    missing: requests for which all robots were waiting.
    answered, refused: of the others.
  """

  offered: float
  missing: int
  answered: Summary
  refused: Summary


class Endings(NamedTuple):
  """What SIGTERM and SIGKILL did to the robots.

  Attributes:
    at_work: requests that waited for their answer at SIGTERM.
    lost: of these, those that were neither answered nor refused.
    exit_code: after SIGTERM.
    gone_on: robots that were answered again after SIGKILL and a restart, by themselves.
    begun: of these, those that were told that their memory began anew.
    seconds: from the restarted server's first moment until the last of these was answered.
  """

  at_work: int
  lost: int
  exit_code: int
  gone_on: int
  begun: int
  seconds: float


class Steady(NamedTuple):
  """A long time with resets, lost connections and malformed messages.

  Attributes:
    answered, malformed: how many.
    resident: bytes after each second.
  """

  answered: int
  malformed: int
  resident: list[int]

  @property
  def growth(self) -> float:
    """Bytes by which the last quarter's median is above the second's; the first is warming up."""
    quarters = np.array_split(np.asarray(self.resident, float), 4)
    return float(np.median(quarters[3]) - np.median(quarters[1]))


async def alone(uri: str, seconds: float) -> Alone:
  """One robot asks again and again."""
  async with load.robots(uri, 1) as clients:
    end = time.perf_counter() + seconds
    asked = await load.closed_loop(clients, lambda: time.perf_counter() < end)
  return Alone(
    load.summarize(asked, "answered", seconds), float(np.median([one.seconds - one.inside for one in asked]))
  )


async def capacity(uri: str, robots: int, seconds: float) -> Summary:
  """Many robots, each of which asks as soon as it is answered."""
  async with load.robots(uri, robots) as clients:
    end = time.perf_counter() + seconds
    asked = await load.closed_loop(clients, lambda: time.perf_counter() < end)
  return load.summarize(asked, "answered", seconds)


async def overload(uri: str, robots: int, rate: float, seconds: float, deadline: float) -> Overload:
  """Requests come at this rate, whatever the server answers."""
  async with load.robots(uri, robots) as clients:
    asked, missing = await load.open_loop(clients, rate, seconds, deadline)
  answered, refused = (load.summarize(asked, outcome, seconds) for outcome in ("answered", "overloaded"))
  return Overload((len(asked) + missing) / seconds, missing, answered, refused)


async def endings(server: Process, robots: int) -> Endings:
  """SIGTERM while all robots ask; a new start; SIGKILL while they ask, and one more start."""
  async with load.robots(server.uri, robots, patience=0.0) as clients:
    task = asyncio.create_task(load.closed_loop(clients, lambda: True))
    await asyncio.sleep(1.0)
    told = time.perf_counter()
    server.send(signal.SIGTERM)
    asked = await task
  at_work = [one for one in asked if one.began < told < one.began + one.seconds]
  lost = sum(one.outcome == "lost" for one in at_work)
  exit_code = await asyncio.to_thread(server.wait)

  await asyncio.to_thread(server.start)
  again: list[Asked] = []
  async with load.robots(server.uri, robots, patience=load.STARTS) as clients:
    ready: list[float] = []

    def going_on() -> bool:
      return not ready or time.perf_counter() < ready[0] + 2.0

    task = asyncio.create_task(load.closed_loop(clients, going_on))
    await asyncio.sleep(0.5)
    killed = time.perf_counter()
    server.send(signal.SIGKILL)
    await asyncio.to_thread(server.wait)
    await asyncio.to_thread(server.start)
    ready.append(time.perf_counter())
    again = [one for one in await task if one.began + one.seconds > ready[0] and one.outcome == "answered"]
  first = sorted(one for one in again if one.began <= ready[0])  # one for each robot: it waited for the server
  seconds = max((one.began + one.seconds for one in first), default=killed) - ready[0]
  return Endings(len(at_work), lost, exit_code, len(first), sum(one.begun for one in first), seconds)


async def steady(server: Process, robots: int, seconds: float) -> Steady:
  """Robots that ask, forget and come back, while others send what is no message."""
  end, resident, answered = time.perf_counter() + seconds, list[int](), 0
  going_on = lambda: time.perf_counter() < end  # noqa: E731

  async def come_and_go(which: int) -> None:
    nonlocal answered
    rng = np.random.default_rng(which)
    while going_on():
      async with load.robots(server.uri, 1, session=f"robot-{which}") as (client,):
        answered += 1  # it has begun
        for _ in range(int(rng.integers(1, 12))):
          if rng.random() < 0.2:
            await client.reset()
          answered += (await load.ask(client, load.observation(client.metadata, which))).outcome == "answered"

  async def watch() -> None:
    while going_on():
      resident.append(server.resident_bytes())
      await asyncio.sleep(1.0)

  others = asyncio.gather(watch(), *map(come_and_go, range(robots)))
  malformed, _ = await asyncio.gather(load.disturb(server.uri, going_on), others)
  return Steady(answered, malformed, resident)
