"""A page on which people watch imagined videos and steer them: `kairos play`.

One page, one websocket. The server sends a hello, numbered frames and numbers about its work; the page sends what its
viewer wants, one JSON map a message. A viewer that reads too slowly loses frames, the oldest first, and nothing else:
it has a few places for frames that wait, and nobody waits for it. A world that nobody watches stands still, and ends.
"""

import asyncio
import base64
import collections
import contextlib
import dataclasses
import hashlib
import http
import io
import json
import re
import socket
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import websockets.exceptions
from absl import logging
from jaxtyping import UInt8
from PIL import Image
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Response

from kairos_jax import media
from kairos_jax.errors import KairosError
from kairos_jax.resident import resident_bytes
from kairos_jax.runtime import WorldModel
from kairos_jax.serving.signals import on_signal
from kairos_jax.serving.worlds import Worlds

_WAITING = 8  # frames that wait for a viewer at most
_LONGEST_PROMPT = 500  # characters
_BUFFER = 32 << 10  # bytes on their way to a viewer at most, so that nobody sees a long past
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclasses.dataclass(frozen=True)
class Options:
  """What an operator decides.

  Attributes:
    host, port: where the page is; port 0 takes any that is free.
    most_worlds, most_viewers: at a time.
    idle: seconds after which a world that nobody watches ends.
    steps: denoising steps of a segment.
  """

  host: str = "127.0.0.1"
  port: int = 8080
  most_worlds: int = 8
  most_viewers: int = 64
  idle: float = 60.0
  steps: int = 3


class _Viewer:
  """One page. Frames wait in a few places; the oldest makes room for the newest."""

  def __init__(self) -> None:
    self.world = ""
    self.dropped = 0
    self.words: collections.deque[str] = collections.deque()
    self._frames: collections.deque[bytes] = collections.deque()
    self._some = asyncio.Event()

  def show(self, frame: bytes) -> None:
    if len(self._frames) == _WAITING:
      self._frames.popleft()
      self.dropped += 1
    self._frames.append(frame)
    self._some.set()

  def say(self, **words: Any) -> None:
    if len(self.words) < _WAITING:  # one who does not read is told nothing more
      self.words.append(json.dumps(words))
      self._some.set()

  async def next(self) -> str | bytes:
    while not self.words and not self._frames:
      self._some.clear()
      await self._some.wait()
    return self.words.popleft() if self.words else self._frames.popleft()


@dataclasses.dataclass
class _Show:
  """A world as it is shown.

  Attributes:
    number: of the next frame.
    edition: changes when what was imagined ahead is no longer what shall be seen.
    times: when the latest frames were shown.
    seconds: that the latest segment took.
  """

  task: asyncio.Task[None] | None = None
  wanted: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
  paused: bool = False
  number: int = 0
  edition: int = 0
  left: float = 0.0  # when the last viewer went
  seconds: float = 0.0
  times: collections.deque[float] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=1000))


class Playground:
  """One model behind one page."""

  def __init__(
    self,
    model: WorldModel,
    starts: Sequence[UInt8[np.ndarray, "H W 3"]],
    instruction: str,
    options: Options = Options(),
  ):
    """Makes it; `run` serves.

    Args:
      model: with a memory of constant size.
      starts: pictures of the model's size to choose from, at least one.
      instruction: that a world begins with.
      options: see there.

    Raises:
      KairosError: the model's memory grows, or there is no picture to begin with.
    """
    if not starts:
      raise KairosError("play: there is no picture to begin with")
    self._options, self._starts, self._instruction = options, list(starts), instruction
    self._worlds = Worlds(model, most=options.most_worlds, steps=options.steps)
    self._fps, self._size = model.saved.video_fps, model.saved.frame_size
    self._device = ThreadPoolExecutor(1, thread_name_prefix="device")
    self._shows: dict[str, _Show] = {}
    self._viewers: set[_Viewer] = set()
    self._page, self._policy = _page()
    self._hello = {
      "starts": [_png(picture) for picture in self._starts],
      "size": list(self._size),
      "fps": self._fps,
      "segment": self._worlds.segment,
      "prompt": instruction,
    }
    self.port: int | None = None  # set when it listens

  async def run(self, ready: asyncio.Event | None = None, stop: asyncio.Event | None = None) -> None:
    """Compiles, listens until SIGTERM, SIGINT or `stop`, and returns."""
    stop = stop or asyncio.Event()
    options = self._options
    on_signal(stop)
    await self._on_device(self._warm_up)
    server = await serve(
      self._watch,
      options.host,
      options.port,
      compression=None,
      max_size=4 * self._size[0] * self._size[1] * 3 + (64 << 10),  # a picture in base64, and words
      max_queue=4,
      write_limit=_BUFFER,
      process_request=self._answer,
      server_header=None,
    )
    self.port = server.sockets[0].getsockname()[1]
    logging.info("open http://%s:%d", options.host, self.port)
    others = [asyncio.create_task(self._count()), asyncio.create_task(self._sweep())]
    if ready:
      ready.set()
    await stop.wait()
    server.close()
    shows = [show.task for show in self._shows.values() if show.task]
    for task in (*others, *shows):
      task.cancel()
    await asyncio.gather(*others, *shows, return_exceptions=True)
    await server.wait_closed()
    self._device.shutdown()

  def _warm_up(self) -> None:
    """Compiles all that a viewer can ask for."""
    name = self._worlds.begin(self._starts[0], self._instruction, 0)
    self._worlds.step(name)
    self._worlds.prompt(name, self._instruction)
    self._worlds.step(name)
    self._worlds.end(name)

  async def _on_device(self, function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(self._device, function, *arguments)

  # What is plain HTTP.

  async def _answer(self, connection: ServerConnection, request: Any) -> Response | None:
    """The page, a video, or None for a websocket of this page's own; another site's page may not use this one."""
    host = request.headers.get("Host", "")
    name = urllib.parse.urlsplit(f"//{host}").hostname
    if name not in (*_LOCAL, self._options.host) and self._options.host in _LOCAL:
      return connection.respond(http.HTTPStatus.FORBIDDEN, "no such host here\n")
    path = urllib.parse.urlsplit(request.path).path
    if path == "/":
      policy = self._policy
      return _respond(self._page, "text/html; charset=utf-8", **{"Content-Security-Policy": policy})
    if path == "/healthz":
      return connection.respond(http.HTTPStatus.OK, "OK\n")
    if (video := re.fullmatch(r"/video/([a-z0-9-]{1,40})\.mp4", path)) is not None:
      return await self._video(connection, video[1])
    if path != "/watch":
      return connection.respond(http.HTTPStatus.NOT_FOUND, "there is no such page\n")
    origin = request.headers.get("Origin")
    if origin is not None and urllib.parse.urlsplit(origin).netloc != host:
      return connection.respond(http.HTTPStatus.FORBIDDEN, "another page may not watch\n")
    if len(self._viewers) >= self._options.most_viewers:
      return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many viewers\n")
    return None

  async def _video(self, connection: ServerConnection, name: str) -> Response:
    try:
      frames = await self._on_device(self._worlds.video, name)
    except KairosError as error:
      return connection.respond(http.HTTPStatus.NOT_FOUND, f"{error}\n")
    data = await asyncio.to_thread(_mp4, frames, self._fps)
    return _respond(data, "video/mp4", **{"Content-Disposition": f'attachment; filename="{name}.mp4"'})

  # What is a viewer's.

  async def _watch(self, connection: ServerConnection) -> None:
    viewer = _Viewer()
    self._viewers.add(viewer)
    connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    viewer.say(kind="hello", **self._hello)
    sender = asyncio.create_task(_send(connection, viewer))
    try:
      asked = connection.request.path if connection.request else ""
      wanted = urllib.parse.parse_qs(urllib.parse.urlsplit(asked).query).get("world", [""])[0]
      try:
        if wanted in self._shows:
          await self._join(viewer, wanted)
        else:
          await self._begin(viewer, {"start": 0})
      except KairosError as error:
        viewer.say(kind="error", text=str(error))
      async for message in connection:
        try:
          await self._do(viewer, _fields(message))
        except KairosError as error:
          viewer.say(kind="error", text=str(error)[:300])
    except websockets.exceptions.ConnectionClosed:
      pass
    finally:
      sender.cancel()
      self._viewers.discard(viewer)
      self._leave(viewer)

  async def _do(self, viewer: _Viewer, fields: dict[str, Any]) -> None:
    """What one message asks for."""
    show, name = self._shows.get(viewer.world), viewer.world
    match fields.get("do"):
      case "start":
        await self._begin(viewer, fields)
        return
      case "join":
        await self._join(viewer, str(fields.get("world")))
        return
    if show is None:
      raise KairosError("there is no world here any more; begin one")
    match fields.get("do"):
      case "pause" | "go":
        show.paused = fields["do"] == "pause"
        self._decide(name)
      case "prompt":
        await self._on_device(self._worlds.prompt, name, _prompt(fields))
        show.edition += 1
      case "rewind":
        unseen = 1  # is imagined ahead
        await self._on_device(self._worlds.rewind, name, unseen + _whole(fields, "segments", 1, 1000))
        show.edition += 1
      case "seed":
        await self._on_device(self._worlds.seed, name, _whole(fields, "seed", 0, 2**53))
        show.edition += 1
      case "fork":
        await self._enter(viewer, await self._on_device(self._worlds.fork, name))
        return
      case other:
        raise KairosError(f"do is {str(other)[:40]!r}; it must be start, join, pause, go, prompt, rewind, seed or fork")
    await self._tell(name)

  async def _begin(self, viewer: _Viewer, fields: dict[str, Any]) -> None:
    """Begins a world of the viewer's own."""
    picture = self._picture(fields)
    seed = _whole(fields, "seed", 0, 2**53) if "seed" in fields else 0
    prompt = _prompt(fields) if "prompt" in fields else self._instruction
    await self._enter(viewer, await self._on_device(self._worlds.begin, picture, prompt, seed))

  def _picture(self, fields: dict[str, Any]) -> UInt8[np.ndarray, "H W 3"]:
    """The first frame: one of ours, or plain RGB bytes in base64, which the page has made of the viewer's own."""
    height, width = self._size
    if "rgb" not in fields:
      return self._starts[_whole(fields, "start", 0, len(self._starts) - 1)]
    try:
      data = base64.b64decode(fields["rgb"], validate=True)
    except (ValueError, TypeError):
      raise KairosError("rgb is not base64") from None
    if len(data) != height * width * 3:
      raise KairosError(f"rgb has {len(data)} bytes; a picture of {height} x {width} has {height * width * 3}")
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)

  async def _enter(self, viewer: _Viewer, name: str) -> None:
    """Shows a new world."""
    show = self._shows[name] = _Show(left=time.monotonic())
    show.task = asyncio.create_task(self._play(name, show))
    await self._join(viewer, name)

  async def _join(self, viewer: _Viewer, name: str) -> None:
    if name not in self._shows:
      raise KairosError(f"there is no world {name[:40]!r}")
    self._leave(viewer)
    viewer.world = name
    self._decide(name)
    await self._tell(name)

  def _leave(self, viewer: _Viewer) -> None:
    name, viewer.world = viewer.world, ""
    if name in self._shows:
      self._shows[name].left = time.monotonic()
      self._decide(name)

  def _decide(self, name: str) -> None:
    """Goes on while someone watches and nobody has stopped it."""
    show = self._shows[name]
    if self._watching(name) and not show.paused:
      show.wanted.set()
    else:
      show.wanted.clear()

  def _watching(self, name: str) -> list[_Viewer]:
    return [viewer for viewer in self._viewers if viewer.world == name]

  async def _tell(self, name: str) -> None:
    """Says to all who watch how the world stands."""
    prompt, seed = await self._on_device(self._worlds.about, name)
    for viewer in self._watching(name):
      paused = self._shows[name].paused
      viewer.say(kind="world", world=name, prompt=prompt, seed=seed, paused=paused, worlds=list(self._shows))

  # What goes on by itself.

  async def _play(self, name: str, show: _Show) -> None:
    """Shows frames at the model's rate; the next segment is imagined meanwhile."""
    await show.wanted.wait()
    due, ahead = time.monotonic(), asyncio.create_task(self._imagine(name, show))
    while True:
      edition, frames = await ahead
      await show.wanted.wait()
      ahead = asyncio.create_task(self._imagine(name, show))
      due = max(due, time.monotonic())  # what was late is not made up for
      for frame in frames:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await show.wanted.wait()
        if edition != show.edition:  # of a past that was left
          break
        self._broadcast(name, show, frame)
        due += 1 / self._fps

  async def _imagine(self, name: str, show: _Show) -> tuple[int, list[bytes]]:
    """The next segment, and of which edition it is; nothing of a world that has ended."""
    began, edition = time.monotonic(), show.edition
    try:
      frames = await self._on_device(lambda: [_jpeg(frame) for frame in self._worlds.step(name)])
    except KairosError:
      return edition, []
    except Exception:
      logging.exception("a segment failed")
      show.paused = True
      self._decide(name)
      for viewer in self._watching(name):
        viewer.say(kind="error", text="the server failed, and has stopped this world")
      return edition, []
    show.seconds = time.monotonic() - began
    return edition, frames

  def _broadcast(self, name: str, show: _Show, frame: bytes) -> None:
    numbered = show.number.to_bytes(4, "big") + frame
    show.number = (show.number + 1) % 2**32
    show.times.append(time.monotonic())
    for viewer in self._watching(name):
      viewer.show(numbered)

  async def _count(self) -> None:
    """Tells everyone, once a second, what it costs."""
    while True:
      await asyncio.sleep(1.0)
      for name, show in list(self._shows.items()):
        if not (viewers := self._watching(name)):
          continue
        now = time.monotonic()
        with contextlib.suppress(KairosError):
          numbers = {
            "fps": sum(now - t < 5.0 for t in show.times) / 5.0,
            "segment_ms": 1000 * show.seconds,
            "memory": resident_bytes(),
            "stream": await self._on_device(self._worlds.nbytes, name),
            "viewers": len(viewers),
            "worlds": list(self._shows),
          }
          for viewer in viewers:
            viewer.say(kind="numbers", dropped=viewer.dropped, **numbers)

  async def _sweep(self) -> None:
    """Ends worlds that nobody watches."""
    while True:
      await asyncio.sleep(min(1.0, self._options.idle / 4))
      for name, show in list(self._shows.items()):
        if not self._watching(name) and time.monotonic() - show.left > self._options.idle:
          del self._shows[name]
          assert show.task is not None  # it was entered
          show.task.cancel()
          await self._on_device(self._worlds.end, name)


async def _send(connection: ServerConnection, viewer: _Viewer) -> None:
  with contextlib.suppress(websockets.exceptions.ConnectionClosed):
    while True:
      await connection.send(await viewer.next())


def _fields(message: str | bytes) -> dict[str, Any]:
  try:
    fields = json.loads(message)
  except (ValueError, RecursionError):
    raise KairosError("a message is one JSON map") from None
  if not isinstance(fields, dict):
    raise KairosError("a message is one JSON map")
  return fields


def _whole(fields: dict[str, Any], key: str, least: int, most: int) -> int:
  value = fields.get(key)
  if type(value) is not int or not least <= value <= most:
    raise KairosError(f"{key} is {str(value)[:40]}; it must be a whole number of {least} to {most}")
  return value


def _prompt(fields: dict[str, Any]) -> str:
  text = fields.get("prompt")
  if not isinstance(text, str) or len(text) > _LONGEST_PROMPT:
    raise KairosError(f"prompt must be a text of at most {_LONGEST_PROMPT} characters")
  return text


def _page() -> tuple[bytes, str]:
  """The page, and what a browser may let it do: its own script alone, and talking to this server."""
  page = Path(__file__).with_name("playground.html").read_bytes()
  script = re.search(rb"<script>(.*?)</script>", page, re.DOTALL)
  assert script is not None  # the page has one
  known = base64.b64encode(hashlib.sha256(script[1]).digest()).decode()
  allowed = f"default-src 'none'; script-src 'sha256-{known}'; style-src 'unsafe-inline'"
  return page, f"{allowed}; img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"


def _respond(body: bytes, kind: str, **more: str) -> Response:
  headers = {"Content-Type": kind, "Content-Length": str(len(body)), "X-Content-Type-Options": "nosniff"}
  return Response(200, "OK", Headers(**headers, **more, Connection="close"), body)


def _png(picture: UInt8[np.ndarray, "H W 3"]) -> str:
  return f"data:image/png;base64,{base64.b64encode(_encoded(picture, format='PNG')).decode()}"


def _jpeg(frame: UInt8[np.ndarray, "H W 3"]) -> bytes:
  return _encoded(frame, format="JPEG", quality=92, subsampling=0)


def _encoded(picture: UInt8[np.ndarray, "H W 3"], **how: Any) -> bytes:
  file = io.BytesIO()
  Image.fromarray(picture).save(file, **how)
  return file.getvalue()


def _mp4(frames: UInt8[np.ndarray, "T H W 3"], fps: float) -> bytes:
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "world.mp4")
    media.write_mp4(path, frames, fps, scale=max(1, 384 // frames.shape[1]))
    return path.read_bytes()
