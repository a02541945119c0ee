"""What is promised of a batch's time, and with it who is refused."""

import asyncio
import dataclasses
import time

import numpy as np
import pytest

from kairos_jax.serving.dispatcher import Dispatcher, Pace, Refused
from kairos_jax.serving.engine import Engine
from kairos_jax.serving.metrics import Metrics
from kairos_jax.serving.observation import Request


class Sleeper(Engine):
  """An engine of one place that takes as long as it is told to."""

  batch = sessions = 1

  def __init__(self, seconds):
    self.seconds, self.worked = seconds, []

  def warm_up(self):
    return {1: self.seconds}

  def infer(self, requests):
    self.worked.append(list(requests))
    time.sleep(self.seconds)
    return dict.fromkeys(requests, "done")


def test_what_waited_too_long_is_refused_and_takes_no_time_from_the_others():
  async def ask():
    engine, seen = Sleeper(0.2), Request(np.zeros((1, 4, 4, 3), np.uint8), np.zeros(2, np.float32))
    dispatcher = Dispatcher(engine, Metrics(), deadline=60.0)
    dispatcher.start()
    engine.seconds = 0.4  # twice as long as it promised
    first = asyncio.create_task(dispatcher.infer("first", seen, time.monotonic()))
    await asyncio.sleep(0.05)
    # 0.35 s are left of the first one, by its promise 0.15 s.
    late = asyncio.create_task(dispatcher.infer("late", dataclasses.replace(seen, deadline=0.45), time.monotonic()))
    last = asyncio.create_task(dispatcher.infer("last", seen, time.monotonic()))
    with pytest.raises(Refused, match="longer than they should have"):
      await late
    outcome = await asyncio.gather(first, last)
    await dispatcher.drain()
    return outcome, engine.worked

  outcome, worked = asyncio.run(ask())
  assert outcome == ["done", "done"] and worked == [["first"], ["last"]]


def test_a_free_device_takes_who_comes_whatever_it_took_before():
  async def ask():
    engine, seen = Sleeper(0.1), Request(np.zeros((1, 4, 4, 3), np.uint8), np.zeros(2, np.float32), deadline=0.5)
    dispatcher = Dispatcher(engine, Metrics(), deadline=60.0)
    dispatcher.start()
    engine.seconds = 0.8
    for _ in range(3):  # now it promises no better
      await dispatcher.infer("robot", dataclasses.replace(seen, deadline=60.0), time.monotonic())
    engine.seconds = 0.01
    await asyncio.sleep(0.05)
    outcome = await dispatcher.infer("robot", seen, time.monotonic())
    await dispatcher.drain()
    return outcome

  assert asyncio.run(ask()) == "done"


def test_a_promise_is_kept_by_nearly_all_batches():
  rng, pace, kept, now = np.random.default_rng(0), Pace(0.02), [], 0.0
  for seconds in 0.02 * rng.lognormal(0.0, 0.2, 2000):
    kept.append(seconds <= pace.promise(now))
    now += seconds
    pace.learn(now, seconds)
  assert 0.95 < np.mean(kept) < 0.99


def test_one_long_batch_frightens_nobody_off_and_a_slow_device_is_known_at_once_and_forgiven():
  pace = Pace(0.01)
  assert pace.promise(0.0) == 0.01
  pace.learn(5.0, 5.0)
  assert pace.promise(5.0) == 0.01
  pace.learn(5.1, 0.02)
  assert pace.promise(5.1) == 0.02
  pace.learn(5.5, 0.3)
  assert pace.promise(5.5) == 0.3
  assert pace.promise(15.05) == 0.02 and pace.promise(15.2) == 0.01  # nothing ran meanwhile
