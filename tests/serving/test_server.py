"""The server as clients see it: protocol, sessions alone and together, refusals, the end."""

import asyncio
import contextlib
import threading
import time
import urllib.error
import urllib.request

import msgpack
import numpy as np
import pytest
import websockets.exceptions
from websockets.sync.client import connect

from kairos_jax.serving.client import AsyncClient, Client, ServerError, pack, unpack
from kairos_jax.serving.engine import Engine
from kairos_jax.serving.observation import Request
from tests.serving.conftest import STEPS, observation


def get(running, path):
  try:
    with urllib.request.urlopen(running.uri.replace("ws", "http") + path, timeout=10) as answer:
      return answer.status, answer.read()
  except urllib.error.HTTPError as error:
    return error.code, error.read()


def test_the_conversation_is_openpis(running):
  """Metadata first, then a map with actions and timings for each observation; an error is text, and 1011."""
  with connect(running.uri, compression=None) as socket:
    told = unpack(socket.recv())
    assert told["action_horizon"] == 4 and told["cameras"] == ["front"] and told["replan"] == 4
    assert told["embodiment"] == "slide_arm" and told["control_hz"] == 10.0 and len(told["actions"]) == 3
    for call in range(2):
      socket.send(pack(observation(call)))
      reply = unpack(socket.recv())
      assert reply["actions"].shape == (4, 3) and reply["actions"].dtype == np.float32
      np.testing.assert_array_equal(reply["state"], observation(call)["state"])
      assert 0 < reply["policy_timing"]["infer_ms"] <= reply["server_timing"]["infer_ms"]
      assert ("prev_total_ms" in reply["server_timing"]) == (call == 1) and "request_id" not in reply
    socket.send(pack({"state": [0, 0, 0]}))
    assert socket.recv() == "invalid: camera 'front' is missing; this robot has front"
    with pytest.raises(websockets.exceptions.ConnectionClosed):
      socket.recv()
    assert socket.close_code == 1011


@pytest.mark.parametrize(
  "message",
  [
    "text",
    b"\x80\x04N.",
    b"",
    pack([1]),
    pack({}),
    pack({**observation(0), "endpoint": "kill"}),
    pack({**observation(0), "endpoint": np.zeros(2)}),
    pack({**observation(0), "endpoint": None}),
    pack({**observation(0), "session_id": 4}),
    pack({"endpoint": "reset", "success": np.zeros(2)}),
    pack({**observation(0), "request_id": "x" * 101}),
    msgpack.packb({"images": {"__ndarray__": True, "data": b"", "dtype": "|O", "shape": [0]}}),
  ],
)
def test_a_malformed_message_is_told_in_one_line(running, message):
  with connect(running.uri) as socket:
    socket.recv()
    socket.send(message)
    line = socket.recv()
    assert line.startswith("invalid: ") and "\n" not in line and "Traceback" not in line


def test_a_message_that_is_too_large_ends_its_connection_alone(start):
  with start(max_bytes=10_000) as running, Client(running.uri) as other:
    with connect(running.uri) as socket:
      socket.recv()
      socket.send(b"\0" * 20_000)
      with pytest.raises(websockets.exceptions.ConnectionClosed):
        socket.recv()
      assert socket.close_code == 1009
    assert other.infer(observation(0))["begun"]


def test_a_reset_is_answered_in_both_ways(running):
  for path, answer in (("", "reset successful"), ("/v1/realtime/robot/openpi", pack({"status": "reset successful"}))):
    with connect(running.uri + path) as socket:
      socket.recv()
      for begun in (True, False, None, True):
        socket.send(pack({"endpoint": "reset"} if begun is None else observation(1, endpoint="infer")))
        got = socket.recv()
        assert got == answer if begun is None else unpack(got)["begun"] == begun


def test_health_metrics_and_keys(start):
  with start(api_key="sesame", metrics_port=0) as running:
    assert get(running, "/healthz") == (200, b"OK\n") and get(running, "/readyz")[0] == 200
    assert get(running, "/")[0] == 401
    for key in (None, "open", "sésame"):
      with pytest.raises(ConnectionError, match="401"):
        Client(running.uri, api_key=key and key.encode().decode("latin1"))
    with Client(running.uri, api_key="sesame") as policy:
      policy.infer(observation(0))
    from prometheus_client import generate_latest

    text = generate_latest(running.serving._metrics.registry).decode()
    assert 'kairos_requests_total{outcome="answered"} 1.0' in text and "kairos_sessions 1.0" in text


def episode(engine, name, which, plan):
  """What a session alone is answered; `plan` says which calls are preceded by a reset."""
  for call, reset in enumerate(plan):
    if reset:
      engine.reset(name)
    seen = observation(1000 * which + call, frames=4)
    yield engine.infer({name: Request(seen["images"]["front"], seen["state"], f"task {which}", seed=call)})[name]


def storm(uri, sessions, calls, seed, malformed):
  """Sessions at once that reset, go away and come back, with malformed messages between; what each was answered."""
  plans = np.random.default_rng(seed).random((sessions, calls, 2)) < 0.25
  answers = [[] for _ in range(sessions)]

  async def robot(which):
    rng = np.random.default_rng(which)
    for call, (reset, leave) in enumerate(plans[which]):
      if call == 0 or leave:
        client = AsyncClient(uri, session_id=f"robot {which}", timeout=120)
        await client.__aenter__()
      if reset:
        await client.reset()
      seen = observation(1000 * which + call, frames=4, seed=call)
      answers[which].append(await client.infer({**seen, "prompt": f"task {which}"}))
      if call + 1 == calls or plans[which][call + 1][1]:
        await client.__aexit__()
      await asyncio.sleep(0.01 * rng.random())

  async def vandal(which):
    from websockets.asyncio.client import connect as connect_async

    rng, good = np.random.default_rng(which), pack(observation(which))
    for _ in range(malformed // 4):
      async with connect_async(uri) as socket:
        await socket.recv()
        bad = bytearray(good)
        for _ in range(1 + rng.integers(4)):
          bad[rng.integers(60)] = rng.integers(256)
        await socket.send(bytes(bad[: rng.integers(1, len(bad))]))
        line = await socket.recv()
        assert isinstance(line, bytes) or ("Traceback" not in line and "\n" not in line)

  async def everyone():
    await asyncio.gather(*(robot(i) for i in range(sessions)), *(vandal(i) for i in range(4)))

  asyncio.run(everyone())
  return plans, answers


def hold_against_each_alone(model, plans, answers):
  engine = Engine(model, capacity=1, batch=1, steps=STEPS)
  for which, (plan, got) in enumerate(zip(plans, answers, strict=True)):
    for call, want in enumerate(episode(engine, "alone", which, plan[:, 0])):
      np.testing.assert_allclose(got[call]["actions"], want.actions, atol=1e-5)
      assert (got[call]["latents"], got[call]["begun"]) == (want.latents, want.begun)
    engine.release("alone")


def test_sessions_among_others_are_answered_as_if_alone(start, model):
  with start() as running:
    plans, answers = storm(running.uri, 5, 6, seed=1, malformed=16)
  hold_against_each_alone(model, plans, answers)


@pytest.mark.slow
def test_64_sessions_and_1000_malformed_messages(start, model):
  with start(sessions=72, batch=8) as running:
    plans, answers = storm(running.uri, 64, 20, seed=2, malformed=1000)
  hold_against_each_alone(model, plans, answers)


def test_a_request_that_is_repeated_is_answered_again_and_changes_nothing(running):
  with connect(running.uri) as socket:
    socket.recv()
    asked = [pack(observation(i, frames=4, session_id="repeats", request_id=f"r{i}")) for i in range(2)]
    replies = []
    for data in (asked[0], asked[1], asked[1]):
      socket.send(data)
      replies.append(socket.recv())
    assert replies[1] == replies[2] and unpack(replies[1])["latents"] == 2 and unpack(replies[1])["request_id"] == "r1"


def test_a_late_answer_is_not_taken_for_the_next(running, monkeypatch):
  """The client gives up on one request, and the next gets its own answer."""
  infer = Engine.infer

  def slow(self, requests):
    time.sleep(0.5)
    return infer(self, requests)

  with Client(running.uri) as policy:
    policy.infer(observation(0))
    with monkeypatch.context() as patch:
      patch.setattr(Engine, "infer", slow)
      policy._timeout = 0.1
      with pytest.raises(TimeoutError):
        policy.infer(observation(1))
      policy._timeout = 30.0
      assert np.array_equal(policy.infer(observation(2))["state"], observation(2)["state"])


def test_what_cannot_be_answered_in_time_is_refused_at_once(start, monkeypatch):
  infer = Engine.infer

  def slow(self, requests):
    time.sleep(0.3)
    return infer(self, requests)

  monkeypatch.setattr(Engine, "infer", slow)
  with start(sessions=4, batch=1, deadline=0.5) as running:
    with Client(running.uri) as policy:
      policy.infer(observation(0))  # now a batch is known to take longer
      for _ in range(12):
        policy.infer(observation(0, deadline_ms=60_000))
      others = [Client(running.uri) for _ in range(3)]
      outcome = []

      def ask(client):
        began = time.monotonic()
        try:
          client.infer(observation(1))
          outcome.append(("answered", time.monotonic() - began))
        except ServerError as error:
          outcome.append((error.code, time.monotonic() - began))

      threads = [threading.Thread(target=ask, args=(one,)) for one in others]
      for thread in threads:
        thread.start()
      for thread in threads:
        thread.join()
      codes = [code for code, _ in outcome]
      assert codes.count("answered") >= 1 and codes.count("overloaded") >= 1
      assert all(seconds < 0.2 for code, seconds in outcome if code == "overloaded")
      assert all(seconds < 0.6 for code, seconds in outcome if code == "answered")
      with pytest.raises(ServerError, match="deadline is 1 ms"):
        policy.infer(observation(1, deadline_ms=1))
      policy.infer(observation(1))  # the connection goes on
      for one in others:
        one.close()


def test_too_many_sessions_are_refused_until_one_is_idle(start):
  with start(sessions=4, batch=1, idle=0.4) as running, contextlib.ExitStack() as stack:
    *four, late = (stack.enter_context(Client(running.uri)) for _ in range(5))
    for one in four:
      one.infer(observation(0))
    with pytest.raises(ServerError, match="all 4 sessions are in use"):
      late.infer(observation(0))
    time.sleep(1.0)
    assert late.infer(observation(0))["begun"]


def test_an_end_answers_what_was_accepted_and_refuses_the_rest(start, monkeypatch):
  infer, at_work = Engine.infer, threading.Event()

  def slow(self, requests):
    at_work.set()
    time.sleep(0.5)
    return infer(self, requests)

  monkeypatch.setattr(Engine, "infer", slow)
  with start(sessions=4, batch=1) as running:
    clients = [Client(running.uri, patience=0.1) for _ in range(4)]
    outcome = []
    ask = lambda client: outcome.append(client.infer(observation(0))["begun"])  # noqa: E731
    threads = [threading.Thread(target=ask, args=(one,)) for one in clients[:3]]
    for thread in threads:
      thread.start()
    assert at_work.wait(10)
    while len(running.serving._dispatcher._queue) < 2:
      time.sleep(0.01)
    running.stop()
    time.sleep(0.1)
    with pytest.raises(ServerError, match="draining"):
      clients[3].infer(observation(0))
    for thread in threads:
      thread.join()
    assert outcome == [True] * 3


def test_a_failure_is_told_without_its_reason_and_the_server_goes_on(running, monkeypatch):
  def broken(self, requests):
    raise ValueError("a secret")

  with Client(running.uri, session_id="unlucky") as policy:
    policy.infer(observation(0))
    with monkeypatch.context() as patch:
      patch.setattr(Engine, "infer", broken)
      with pytest.raises(ServerError, match="internal: the server failed; the session's memory was lost") as caught:
        policy.infer(observation(1))
      assert "secret" not in str(caught.value)
    assert policy.infer(observation(2))["begun"]
