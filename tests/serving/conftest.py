"""A server of a tiny model on a thread of its own, which the tests of this package share."""

import asyncio
import contextlib
import dataclasses
import threading

import numpy as np
import pytest

from kairos_jax.runtime import WorldModel
from kairos_jax.serving.engine import Engine
from kairos_jax.serving.server import Options, Server
from tests import tiny

SESSIONS, BATCH, STEPS = 12, 4, 2


class Running:
  """A server that runs in a thread, and ends with the block."""

  def __init__(self, serving):
    self.serving, self._ready, self._stop = serving, threading.Event(), asyncio.Event()
    self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

  async def _main(self):
    self.loop, ready = asyncio.get_running_loop(), asyncio.Event()
    task = asyncio.create_task(self.serving.run(ready, self._stop))
    await asyncio.wait([task, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
    self._ready.set()
    await task

  def __enter__(self):
    self._thread.start()
    assert self._ready.wait(300) and self.serving.port
    self.uri = f"ws://127.0.0.1:{self.serving.port}"
    return self

  def __exit__(self, *_):
    self.stop()
    self._thread.join(60)
    assert not self._thread.is_alive()

  def stop(self):
    with contextlib.suppress(RuntimeError):
      self.loop.call_soon_threadsafe(self._stop.set)


@pytest.fixture(scope="package")
def model(tiny_saved):
  """Streams go on for ten latents, so that memories differ for long."""
  return WorldModel(dataclasses.replace(tiny_saved, clip_frames=41))


@pytest.fixture(scope="package")
def start(model):
  """Makes servers: start(deadline=...) is a context. What an engine of these numbers has compiled stays."""
  engines = {}

  def make(sessions=SESSIONS, batch=BATCH, **options):
    numbers = (sessions, batch)
    if numbers not in engines:
      engines[numbers] = Engine(model, capacity=sessions, batch=batch, steps=STEPS)
    engines[numbers].release_idle(-1)
    return Running(Server(engines[numbers], Options(port=0, **{"deadline": 60.0, **options})))

  return make


@pytest.fixture
def running(start):
  """A server with room for many."""
  with start() as one:
    yield one


def observation(which, frames=1, **more):
  """What a robot sees: noise."""
  pictures = tiny.frames(frames, seed=which)
  state = np.random.default_rng(which).standard_normal(3).astype(np.float32)
  return {"images": {"front": pictures if frames > 1 else pictures[0]}, "state": state, "prompt": "push", **more}
