"""The policy server: openpi's websocket protocol, and what has been added to it since.

On connecting a client gets the metadata. Then it sends an observation and gets one answer, again and again. An error
is a text frame, after which the server closes with 1011; a request that was refused for want of time is a text frame
too, and the connection goes on. GET /healthz says "OK" while the process lives, /readyz while it takes requests.

Source: openpi's serve_policy and client (arrays, metadata, timings, errors); DreamZero's and vllm-omni's servers
(`endpoint`, `session_id`, a reset's two answers).
"""

import asyncio
import contextlib
import dataclasses
import hmac
import http
import importlib.metadata
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import websockets.exceptions
from absl import logging
from websockets.asyncio.server import ServerConnection, serve

from kairos_jax.errors import KairosError
from kairos_jax.interop import saved_model
from kairos_jax.runtime import WorldModel
from kairos_jax.serving.client import WireError, pack, unpack
from kairos_jax.serving.dispatcher import Dispatcher, Refused
from kairos_jax.serving.engine import Engine
from kairos_jax.serving.legacy import Legacy
from kairos_jax.serving.metrics import Metrics
from kairos_jax.serving.observation import MAX_NAME, Reader, text
from kairos_jax.serving.recording import Recorder
from kairos_jax.serving.signals import on_signal

OMNI_PATH = "/v1/realtime/robot/openpi"  # vllm-omni's; there a reset is answered in msgpack, elsewhere in text
_RESET = "reset successful"
_ENDPOINTS = ("infer", "reset")
_SMALL = 64 << 10  # bytes that are read sooner than a thread can be handed them
_LAST_WORDS = 5.0  # seconds that the last answers have to be sent


@dataclasses.dataclass(frozen=True)
class Options:
  """What an operator decides.

  Attributes:
    host, port: where clients connect; port 0 takes any that is free.
    metrics_port: of Prometheus' metrics, on the same host; None leaves them out.
    api_key: clients must send it; None lets all in.
    deadline: seconds that a request has which names none.
    idle: seconds after which a session that asks nothing loses its memory.
    max_bytes: of one message.
    max_connections: at a time.
    embodiment: which of the model's robots; None is the first.
    legacy_port: of the reference's HTTP service, on the loopback address; None leaves it out.
    record: folder of a replay that keeps what sessions saw and did; None keeps nothing.
    record_bytes: most that lies there.
  """

  host: str = "127.0.0.1"
  port: int = 8000
  metrics_port: int | None = None
  api_key: str | None = None
  deadline: float = 1.0
  idle: float = 300.0
  max_bytes: int = 16 << 20
  max_connections: int = 1024
  embodiment: str | None = None
  legacy_port: int | None = None
  record: str | None = None
  record_bytes: int = 10 << 30


class Server:
  """One model behind one port."""

  def __init__(self, engine: Engine, options: Options):
    """Makes it; `run` serves. Raises KairosError if the model does not drive the robot."""
    self._engine, self._options = engine, options
    self._reader = Reader(engine.model, options.embodiment, chunking=engine.chunking)
    self._metadata = pack(metadata(engine, self._reader))
    self._metrics = Metrics()
    self._recorder = None
    if options.record is not None:
      name = saved_model.content_hash(engine.model.saved)
      self._recorder = Recorder(options.record, name, self._reader.robot, options.record_bytes)
    self._dispatcher = Dispatcher(engine, self._metrics, deadline=options.deadline)
    self._decoders = ThreadPoolExecutor(2, thread_name_prefix="decoder")
    self._answered: dict[str, tuple[str, bytes]] = {}  # of each session: the last request's id, and its answer
    self._draining = False
    self._working = 0  # messages that came and are not answered yet
    self.port: int | None = None  # set when it listens, as the next
    self.legacy_port: int | None = None

  async def run(self, ready: asyncio.Event | None = None, stop: asyncio.Event | None = None) -> None:
    """Compiles, listens until SIGTERM, SIGINT or `stop`, answers what was accepted, and returns."""
    stop = stop or asyncio.Event()
    options = self._options
    on_signal(stop)
    await asyncio.to_thread(self._dispatcher.start)
    if options.metrics_port is not None:
      self._metrics.listen(options.host, options.metrics_port)
    legacy = None
    if options.legacy_port is not None:
      horizon = self._engine.model.saved.action_horizon
      numbers = dict(port=options.legacy_port, max_bytes=options.max_bytes)
      legacy = Legacy(self._reader, self._dispatcher, horizon, **numbers)
      self.legacy_port = legacy.port
    server = await serve(
      self._converse,
      options.host,
      options.port,
      compression=None,
      max_size=options.max_bytes,
      max_queue=1,  # a client that sends ahead waits in its own buffers
      process_request=self._greet,
      ping_timeout=None,  # a busy robot answers pings late; one that is gone is found by TCP
      server_header=None,
    )
    self.port = server.sockets[0].getsockname()[1]
    logging.info("listening on ws://%s:%d", options.host, self.port)
    sweeper = asyncio.create_task(self._sweep())
    if ready:
      ready.set()
    await stop.wait()
    logging.info("ending: answering what was accepted")
    self._draining = True
    server.close(close_connections=False)
    sweeper.cancel()
    if legacy:
      await asyncio.to_thread(legacy.close)
    await self._dispatcher.drain()
    with contextlib.suppress(TimeoutError):  # one who does not read is not waited for
      async with asyncio.timeout(_LAST_WORDS):
        while self._working:
          await asyncio.sleep(0.005)
    await asyncio.gather(*(connection.close(1001) for connection in list(server.connections)))
    await server.wait_closed()
    self._decoders.shutdown()
    if self._recorder:
      self._recorder.end_all()

  def _greet(self, connection: ServerConnection, request: Any) -> Any:
    """Answers plain HTTP, and refuses who may not connect."""
    path = request.path.split("?")[0]
    if path == "/healthz":
      return connection.respond(http.HTTPStatus.OK, "OK\n")
    if path == "/readyz":
      status = http.HTTPStatus.SERVICE_UNAVAILABLE if self._draining else http.HTTPStatus.OK
      return connection.respond(status, f"{status.phrase}\n")
    key = self._options.api_key
    given = request.headers.get("Authorization", "")
    if key is not None and not hmac.compare_digest(given.encode(), f"Api-Key {key}".encode()):
      return connection.respond(http.HTTPStatus.UNAUTHORIZED, "a valid Api-Key is needed\n")
    if len(connection.server.connections) > self._options.max_connections:
      return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
    return None

  async def _converse(self, connection: ServerConnection) -> None:
    """One client, from its metadata to its end. A session that it has not named ends with it."""
    own, previous = f"connection-{uuid.uuid4().hex}", None
    self._metrics.connections.inc()
    try:
      await connection.send(self._metadata)
      while True:
        began = time.monotonic()
        message = await connection.recv()
        arrived = time.monotonic()
        self._working += 1
        try:
          reply, close = await self._reply(connection, message, own, previous)
          await connection.send(reply)
        finally:
          self._working -= 1
        self._metrics.seconds.observe(time.monotonic() - arrived)
        if close:
          await connection.close(1011, "see the text frame before")
          return
        previous = 1000 * (time.monotonic() - began)
    except websockets.exceptions.ConnectionClosed:
      pass
    finally:
      self._metrics.connections.dec()
      self._answered.pop(own, None)
      with contextlib.suppress(Refused):
        await self._dispatcher.release(own)
      await self._recorded(own)

  async def _reply(
    self, connection: ServerConnection, message: str | bytes, own: str, previous: float | None
  ) -> tuple[str | bytes, bool]:
    """The frame that answers a message, and whether the connection ends with it."""
    name, arrived = None, time.monotonic()
    try:
      if not isinstance(message, bytes):
        raise KairosError("a request is a binary frame")
      fields = await self._decode(len(message), unpack, message)
      if not isinstance(fields, dict):
        raise KairosError(f"a request is a map; this is a {type(fields).__name__}")
      name = text(fields, "request_id", MAX_NAME)
      session = text(fields, "session_id", MAX_NAME)
      session = own if session is None else f"session-{session}"
      reply = await self._serve(connection, fields, len(message), session, name, arrived, previous)
      self._metrics.requests.labels("answered").inc()
      return reply, False
    except (KairosError, WireError) as error:
      code, about = "invalid", str(error)
    except Refused as error:
      code, about = error.code, str(error)
    except Exception:
      logging.exception("a request failed")
      code, about = "internal", "the server failed"
    self._metrics.requests.labels(code).inc()
    line = f"{code}: {' '.join(about.split())}" + (f" [request {name}]" if name else "")
    return line, code not in ("overloaded", "draining")

  async def _serve(
    self,
    connection: ServerConnection,
    fields: Mapping[str, Any],
    size: int,
    session: str,
    name: str | None,
    arrived: float,
    previous: float | None,
  ) -> str | bytes:
    """The answer to a well-formed message. Raises what `_reply` turns into a line."""
    endpoint = text(fields, "endpoint", MAX_NAME) if "endpoint" in fields else "infer"
    if endpoint not in _ENDPOINTS:
      raise KairosError(f"endpoint is {str(endpoint)[:40]!r}; it must be {' or '.join(_ENDPOINTS)}")
    known = self._answered.get(session)
    if known and name is not None and known[0] == name:
      return known[1]  # asked again, because the answer was lost
    if endpoint == "reset":
      if not isinstance(success := fields.get("success"), bool | None):
        raise KairosError(f"success is a {type(success).__name__}; it must be true or false")
      await self._dispatcher.reset(session)
      await self._recorded(session, success)
      path = connection.request.path.split("?")[0] if connection.request else ""
      if name is None:
        return pack({"status": _RESET}) if path == OMNI_PATH else _RESET
      return pack({"status": _RESET, "request_id": name})
    self._dispatcher.admit(self._reader.deadline(fields), arrived)  # before its pictures are looked at
    request = await self._decode(size, self._reader.read, fields)
    asked = time.monotonic()
    answer = await self._dispatcher.infer(session, request, arrived)
    if self._recorder:
      if self._recorder.ends(session, request):
        await self._recorded(session)
      self._recorder.add(session, request, answer.actions)
    now = time.monotonic()
    timing = {"infer_ms": 1000 * (now - arrived)}
    if previous is not None:
      timing["prev_total_ms"] = previous
    content = {
      "actions": answer.actions,
      "state": request.state,
      "policy_timing": {"infer_ms": 1000 * (now - asked)},
      "server_timing": timing,
      "latents": answer.latents,
      "begun": answer.begun,
    }
    if name is not None:
      content["request_id"] = name
    reply = pack(content)
    if name is not None:
      self._answered[session] = name, reply
    return reply

  async def _decode(self, size: int, function: Callable[[Any], Any], argument: Any) -> Any:
    """What a function makes of a message of so many bytes, off the loop where that could keep others waiting."""
    if size <= _SMALL:
      return function(argument)
    return await asyncio.get_running_loop().run_in_executor(self._decoders, function, argument)

  async def _sweep(self) -> None:
    """Takes memories from sessions that are idle."""
    while True:
      await asyncio.sleep(min(5.0, self._options.idle / 4))
      for session in await self._dispatcher.release_idle(self._options.idle):
        self._answered.pop(session, None)
        await self._recorded(session)

  async def _recorded(self, session: str, success: bool | None = None) -> None:
    """Writes a session's episode, off the loop."""
    if self._recorder:
      await asyncio.to_thread(self._recorder.end, session, success)


def metadata(engine: Engine, reader: Reader) -> dict[str, Any]:
  """What a client is told when it connects: all that it must know to drive a robot with this model."""
  saved, robot = engine.model.saved, reader.robot
  try:
    version = importlib.metadata.version("kairos-jax")
  except importlib.metadata.PackageNotFoundError:  # run from its sources
    version = "unknown"
  quantities = lambda some: [{"name": q.name, "unit": q.unit, "relative": q.relative} for q in some]  # noqa: E731
  return {
    "server": "kairos-jax",
    "version": version,
    "embodiment": robot.name,
    "cameras": list(robot.cameras),
    "picture_size": list(saved.frame_size),
    "control_hz": robot.control_hz,
    "frames_hz": robot.control_hz,
    "action_horizon": saved.action_horizon,
    "action_dim": reader.action_dim,
    "actions": quantities(robot.action),
    "state_dim": reader.state_dim,
    "state": quantities(robot.state),
    "gripper": robot.gripper,
    "replan": engine.stride * engine.model.codec.time_stride,
    "sessions": engine.capacity,
    "chunking": engine.chunking,
  }


def build(model: WorldModel, options: Options, *, sessions: int, **engine_options: Any) -> Server:
  """A server of a model; see `Engine` for what else there is. Raises KairosError as `Engine` and `Server` do."""
  engine = Engine(model, capacity=sessions, embodiment=options.embodiment, **engine_options)
  return Server(engine, options)
