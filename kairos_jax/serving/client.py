"""A policy server's client: send what the robot sees, get its next actions.

It needs numpy, msgpack and websockets and nothing else, so this file alone can be copied to a robot. It speaks the
openpi websocket protocol (msgpack with arrays in it) with a session, a request's id and a reset on top.

Example::

  with Client("ws://localhost:8000") as policy:
    reply = policy.infer({"images": {"front": image}, "state": state, "prompt": "touch the red ball"})
    for action in reply["actions"][: policy.metadata["replan"]]:
      robot.move(action)
"""

import asyncio
import contextlib
import itertools
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
import websockets.asyncio.client
import websockets.exceptions
import websockets.sync.client

_ITEMS = 50_000  # entries of lists and maps in one message: a few bytes of each could otherwise fill the memory
_DTYPE = re.compile(r"[<>|=]?(?:[iu][1248]|f[248]|b1|[US]\d{1,6})")
_ABOUT = re.compile(r"^(?P<text>.*?)(?: \[request (?P<id>[^\]]*)\])?$", re.DOTALL)
_GONE = (OSError, EOFError, websockets.exceptions.WebSocketException)


class WireError(ValueError):
  """Bytes that are no message, or an object that cannot become one."""


class ServerError(RuntimeError):
  """The server refused a request. `code` says why: invalid, overloaded, draining or internal."""

  def __init__(self, code: str, message: str):
    super().__init__(f"{code}: {message}")
    self.code = code


def pack(message: Any) -> bytes:
  """A message as bytes, exactly as openpi writes it.

  Raises:
    WireError: an array of objects, complex numbers or structures, or something that is no plain value.
  """
  try:
    return msgpack.packb(message, default=_pack_array)
  except (TypeError, ValueError, OverflowError) as error:
    raise WireError(f"not a message: {error}") from error


def unpack(data: bytes | str) -> Any:
  """The message in some bytes. Arrays may be spelled as openpi or as msgpack-numpy does, with keys of either kind.

  No input makes it run code or need more than a small multiple of its size in memory. Arrays are read-only.

  Raises:
    WireError: the bytes are no message; text is none either.
  """
  if isinstance(data, str):
    raise WireError(f"not a message: {data[:200]}")
  left = _ITEMS

  def count(items: Any) -> Any:
    nonlocal left
    left -= len(items) + 1
    if left < 0:
      raise WireError(f"more than {_ITEMS} entries")
    return items

  try:
    return msgpack.unpackb(data, object_hook=lambda x: _unpack_array(count(x)), list_hook=count, max_ext_len=0)
  except WireError:
    raise
  except (ValueError, TypeError, KeyError, OverflowError, RecursionError, msgpack.exceptions.UnpackException) as error:
    raise WireError(f"not a message: {str(error)[:200] or type(error).__name__}") from error


def _pack_array(value: Any) -> Any:
  if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "VOc":
    raise WireError(f"unsupported dtype {value.dtype}")
  if isinstance(value, np.ndarray):
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
  if isinstance(value, np.generic):
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
  raise TypeError(f"cannot send a {type(value).__name__}")


def _unpack_array(value: dict) -> Any:
  get = lambda name: value.get(name.encode(), value.get(name))  # noqa: E731
  if get("__ndarray__"):
    return _array(get("data"), _dtype(get("dtype")), get("shape"))
  if get("__npgeneric__"):
    if not isinstance(data := get("data"), bool | int | float | str | bytes):
      raise WireError("a scalar needs a plain value as data")
    return _dtype(get("dtype")).type(data)
  if (array := get("nd")) is not None and get("type") is not None:  # the package msgpack-numpy
    if get("kind") not in (None, b"", ""):
      raise WireError(f"unsupported kind {str(get('kind'))[:20]!r}")
    return _array(get("data"), _dtype(get("type")), get("shape") if array else ())[() if not array else ...]
  return value


def _dtype(text: Any) -> np.dtype:
  text = text.decode("ascii", "replace") if isinstance(text, bytes) else text
  if not isinstance(text, str) or not _DTYPE.fullmatch(text):
    raise WireError(f"unsupported dtype {str(text)[:40]!r}")
  return np.dtype(text)


def _array(data: Any, dtype: np.dtype, shape: Any) -> np.ndarray:
  if not isinstance(data, bytes) or not isinstance(shape, list | tuple) or len(shape) > 8:
    raise WireError("an array needs bytes as data and a list as shape")
  if any(type(side) is not int or side < 0 for side in shape):
    raise WireError(f"shape {str(shape)[:80]} is not of whole numbers")
  count = 1
  for side in shape:
    count *= side
  if count * dtype.itemsize != len(data):
    raise WireError(f"{len(data)} bytes are no {dtype} array {list(shape)}")
  return np.frombuffer(data, dtype).reshape(shape) if count and dtype.itemsize else np.zeros(shape, dtype)


class _Talk:
  """What both clients know of the conversation: ids of requests, and which answer belongs to which."""

  def __init__(self, uri: str, api_key: str | None, session_id: str | None):
    self.uri = uri
    self.session_id = session_id or uuid.uuid4().hex
    self.options: dict[str, Any] = dict(compression=None, max_size=None)
    if api_key:
      self.options["additional_headers"] = {"Authorization": f"Api-Key {api_key}"}
    self._numbers, self._start = itertools.count(), uuid.uuid4().hex[:8]

  def request(self, observation: Mapping[str, Any], endpoint: str) -> tuple[str, bytes]:
    """The id and the bytes of a request."""
    name = f"{self._start}-{next(self._numbers)}"
    return name, pack(dict(observation, endpoint=endpoint, session_id=self.session_id, request_id=name))

  def answer(self, frame: str | bytes, name: str) -> dict[str, Any] | None:
    """The answer to a request; None if it is a late one to another, which nobody waits for any more."""
    if isinstance(frame, bytes):
      reply = unpack(frame)
      return reply if reply.get("request_id", name) == name else None
    about = _ABOUT.match(frame)
    assert about is not None  # it matches all text
    if about["id"] not in (None, name):
      return None
    code, _, text = about["text"].partition(": ")
    if not text:
      return {"status": frame}  # a reset's answer of other servers
    raise ServerError(code, text)


class Client:
  """Synchronous; it connects again by itself.

  After a lost connection it repeats what was not answered, which is safe: a request that the server has already
  answered in this session is answered as it was before.

  Attributes:
    metadata: what the server says of its model: cameras, state, actions, rates, sizes.
  """

  def __init__(
    self,
    uri: str = "ws://localhost:8000",
    *,
    api_key: str | None = None,
    session_id: str | None = None,
    timeout: float = 30.0,
    patience: float = 60.0,
  ):
    """Connects.

    Args:
      uri: of the server.
      api_key: if the server asks for one.
      session_id: names this robot's memory in the server; None makes one up.
      timeout: seconds to wait for an answer.
      patience: seconds for which it tries to connect, at first and after a loss.

    Raises:
      ConnectionError: no server in all this time.
    """
    self._talk, self._timeout, self._patience = _Talk(uri, api_key, session_id), timeout, patience
    self._open = contextlib.ExitStack()
    self._socket, self.metadata = self._connect()

  def __enter__(self) -> "Client":
    """Itself."""
    return self

  def __exit__(self, *_: object) -> None:
    """Closes."""
    self.close()

  def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
    """The server's answer, "actions" among it.

    Raises:
      ServerError: it refused.
      TimeoutError: no answer in time.
      ConnectionError: the connection was lost and none came back.
    """
    return self._ask(observation, "infer")

  def reset(self, success: bool | None = None) -> None:
    """Begins a new episode: what was seen is forgotten. Raises as `infer` does.

    `success` says how the last one ended, for a server that records.
    """
    self._ask({} if success is None else {"success": success}, "reset")

  def close(self) -> None:
    """Ends the connection; the session stays in the server until it has been idle for long."""
    self._open.close()

  def _ask(self, observation: Mapping[str, Any], endpoint: str) -> dict[str, Any]:
    name, data = self._talk.request(observation, endpoint)
    end = time.monotonic() + self._timeout
    sent = False
    while True:
      try:
        if not sent:
          self._socket.send(data)
          sent = True
        if (reply := self._talk.answer(self._socket.recv(max(0.0, end - time.monotonic())), name)) is not None:
          return reply
      except TimeoutError:
        raise TimeoutError(f"no answer from {self._talk.uri} in {self._timeout:g} s") from None
      except _GONE:
        self._socket, self.metadata = self._connect()
        end, sent = time.monotonic() + self._timeout, False

  def _connect(self):
    end, pause = time.monotonic() + self._patience, 0.05
    while True:
      try:
        self._open.close()  # what is left of a connection before
        socket = self._open.enter_context(websockets.sync.client.connect(self._talk.uri, **self._talk.options))
        return socket, unpack(socket.recv(self._timeout))
      except _GONE as error:
        if time.monotonic() + pause > end or _refused(error):
          raise ConnectionError(f"no server at {self._talk.uri}: {error}") from error
        time.sleep(pause)
        pause = min(1.0, 2 * pause)


class AsyncClient:
  """`Client` for asyncio: `async with AsyncClient(uri) as policy: reply = await policy.infer(observation)`.

  One request at a time, as for a robot; answers that come too late for a request that was given up are thrown away.
  """

  metadata: dict[str, Any]

  def __init__(
    self,
    uri: str = "ws://localhost:8000",
    *,
    api_key: str | None = None,
    session_id: str | None = None,
    timeout: float = 30.0,
    patience: float = 60.0,
  ):
    """Takes what `Client` takes, and connects in `async with`."""
    self._talk, self._timeout, self._patience = _Talk(uri, api_key, session_id), timeout, patience
    self._open = contextlib.AsyncExitStack()

  async def __aenter__(self) -> "AsyncClient":
    """Connects. Raises as `Client` does."""
    await self._connect()
    return self

  async def __aexit__(self, *_: object) -> None:
    """Closes."""
    await self._open.aclose()

  async def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
    """See `Client.infer`."""
    return await self._ask(observation, "infer")

  async def reset(self, success: bool | None = None) -> None:
    """See `Client.reset`."""
    await self._ask({} if success is None else {"success": success}, "reset")

  async def _ask(self, observation: Mapping[str, Any], endpoint: str) -> dict[str, Any]:
    name, data = self._talk.request(observation, endpoint)
    while True:
      try:
        async with asyncio.timeout(self._timeout):
          await self._socket.send(data)
          while (reply := self._talk.answer(await self._socket.recv(), name)) is None:
            pass
          return reply
      except TimeoutError:
        raise TimeoutError(f"no answer from {self._talk.uri} in {self._timeout:g} s") from None
      except _GONE:
        await self._connect()

  async def _connect(self) -> None:
    end, pause = time.monotonic() + self._patience, 0.05
    while True:
      try:
        await self._open.aclose()  # what is left of a connection before
        connecting = websockets.asyncio.client.connect(self._talk.uri, **self._talk.options)
        self._socket = await self._open.enter_async_context(connecting)
        async with asyncio.timeout(self._timeout):
          self.metadata = unpack(await self._socket.recv())
        return
      except _GONE as error:
        if time.monotonic() + pause > end or _refused(error):
          raise ConnectionError(f"no server at {self._talk.uri}: {error}") from error
        await asyncio.sleep(pause)
        pause = min(1.0, 2 * pause)


def _refused(error: BaseException) -> bool:
  """Whether the server is there and says no, as to a wrong key: asking again is in vain."""
  return isinstance(error, websockets.exceptions.InvalidStatus) and error.response.status_code in (401, 403, 404)
