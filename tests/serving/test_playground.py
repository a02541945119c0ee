"""Imagined worlds and their page: what is steered, what is dropped, what is refused, and the page in a real browser."""

import asyncio
import base64
import contextlib
import io
import json
import socket
import urllib.error
import urllib.request

import numpy as np
import pytest
import websockets.asyncio.client
import websockets.exceptions
from PIL import Image

from kairos_jax import seeds
from kairos_jax.cli import main as cli
from kairos_jax.errors import KairosError
from kairos_jax.runtime import WorldModel
from kairos_jax.serving.playground import Options, Playground
from kairos_jax.serving.worlds import Worlds
from tests import browser, tiny
from tests.serving.conftest import Running

STEPS = 1


@pytest.fixture(scope="module")
def worlds(tiny_saved):
  return Worlds(WorldModel(tiny_saved), most=3, steps=STEPS)


@pytest.fixture
def world(worlds):
  name = worlds.begin(tiny.frames(1)[0], "push", 7)
  yield name
  for name in worlds.names:
    worlds.end(name)


def test_a_world_is_the_models_own_imagination(worlds, world, tiny_saved):
  model = WorldModel(tiny_saved)
  stream = model.prefill(tiny.frames(1), "push")
  for segment in range(3):
    latents = model.imagine_latents(stream, 1, seed=[seeds.derive(7, "world", segment)], steps=STEPS)
    want, stream = model.decode(stream, latents)
    stream = model.extend_latents(stream, latents)
    np.testing.assert_array_equal(worlds.step(world), want[0])


def test_going_back_gives_the_same_future_and_another_seed_another(worlds, world):
  first = [worlds.step(world) for _ in range(4)]
  assert worlds.rewind(world, 2) == 2 and len(worlds.video(world)) == 1 + 2 * worlds.segment
  np.testing.assert_array_equal(worlds.step(world), first[2])
  worlds.rewind(world, 1)
  worlds.seed(world, 8)
  assert (worlds.step(world) != first[2]).any()
  assert worlds.rewind(world, 100) == 3


def test_a_fork_goes_its_own_way(worlds, world):
  worlds.step(world)
  copy = worlds.fork(world)
  np.testing.assert_array_equal(worlds.step(copy), worlds.step(world))
  worlds.prompt(copy, "pull")
  assert (worlds.step(copy) != worlds.step(world)).any()
  assert worlds.about(copy) == ("pull", 7) and worlds.about(world) == ("push", 7)
  assert worlds.rewind(copy, 1) == 1 and worlds.about(copy) == ("pull", 7)
  worlds.rewind(copy, 1)
  assert worlds.about(copy) == ("push", 7)
  worlds.fork(copy)
  with pytest.raises(KairosError, match="there are 3 worlds already"):
    worlds.fork(world)


def test_a_world_does_not_grow(worlds, world):
  size, kept = worlds.nbytes(world), 0
  for _ in range(200):
    worlds.step(world)
    kept = max(kept, len(worlds.video(world)))
  assert worlds.nbytes(world) == size and kept <= 600


def test_a_picture_of_another_size_and_a_memory_that_grows(worlds):
  with pytest.raises(KairosError, match="16 x 16 pixels"):
    worlds.begin(tiny.frames(1, size=8)[0], "push", 0)
  with pytest.raises(KairosError, match="its memory grows"):
    Worlds(WorldModel(tiny.saved(tiny.model_config(video_frames=None))), most=1, steps=1)


@pytest.fixture(scope="module")
def page(tiny_saved):
  """At a rate that shows much in little time."""
  import dataclasses

  model = WorldModel(dataclasses.replace(tiny_saved, video_fps=40.0))
  options = Options(port=0, most_worlds=16, idle=1.0, steps=STEPS)
  with Running(Playground(model, [tiny.frames(1, seed=s)[0] for s in range(2)], "push", options)) as running:
    running.http = running.uri.replace("ws", "http")
    yield running


@contextlib.asynccontextmanager
async def watching(page, query="", **more):
  async with websockets.asyncio.client.connect(f"{page.uri}/watch{query}", compression=None, **more) as connection:
    yield connection


async def heard(connection, kind, **wanted):
  """The next words of a kind that say this; what comes meanwhile is passed over."""
  async with asyncio.timeout(60):
    while True:
      message = await connection.recv()
      if (
        isinstance(message, str) and (words := json.loads(message))["kind"] == kind and wanted.items() <= words.items()
      ):
        return words


async def seen(connection, count):
  """Numbers and pictures of the next frames."""
  frames = []
  async with asyncio.timeout(60):
    while len(frames) < count:
      message = await connection.recv()
      if isinstance(message, bytes):
        frames.append((int.from_bytes(message[:4], "big"), np.asarray(Image.open(io.BytesIO(message[4:])))))
  return frames


def test_a_viewer_steers_a_world_and_another_joins(page):
  async def play():
    async with watching(page) as one:
      hello = await heard(one, "hello")
      assert hello["size"] == [16, 16] and hello["prompt"] == "push" and len(hello["starts"]) == 2
      name = (await heard(one, "world"))["world"]
      frames = await seen(one, 6)
      assert [number for number, _ in frames] == list(range(6)) and frames[0][1].shape == (16, 16, 3)
      async with watching(page, f"?world={name}") as two:
        assert (await heard(two, "world"))["world"] == name
        assert (await seen(two, 1))[0][0] > 5
        for fields, wanted in (
          ({"do": "prompt", "prompt": "pull"}, {"prompt": "pull"}),
          ({"do": "seed", "seed": 5}, {"seed": 5}),
          ({"do": "pause"}, {"paused": True}),
          ({"do": "go"}, {"paused": False}),
          ({"do": "rewind", "segments": 2}, {"world": name}),
        ):
          await one.send(json.dumps(fields))
          await heard(two, "world", **wanted)
        await two.send(json.dumps({"do": "fork"}))
        assert (await heard(two, "world"))["world"] != name
      numbers = await heard(one, "numbers", viewers=1)
      assert numbers["memory"] > 1e6 and numbers["stream"] > 100 and numbers["fps"] > 0
      await one.send(
        json.dumps({"do": "start", "rgb": base64.b64encode(tiny.frames(1)).decode(), "prompt": "x", "seed": 3})
      )
      words = await heard(one, "world")
      assert words["world"] != name and (words["prompt"], words["seed"]) == ("x", 3)
      with urllib.request.urlopen(f"{page.http}/video/{words['world']}.mp4") as reply:
        assert reply.headers["Content-Type"] == "video/mp4" and b"ftyp" in reply.read()[:16]

  asyncio.run(play())


def test_what_is_refused_in_one_line(page):
  async def play():
    async with watching(page) as one:
      for message, says in (
        ("no json", "one JSON map"),
        ("[]", "one JSON map"),
        ("[" * 50_000, "one JSON map"),
        ('{"do": "jump"}', "do is 'jump'"),
        ('{"do": "prompt", "prompt": 3}', "prompt must be"),
        ('{"do": "rewind", "segments": 0}', "segments is 0"),
        ('{"do": "seed", "seed": true}', "seed is True"),
        ('{"do": "start", "rgb": "AAAA"}', "rgb has 3 bytes"),
        ('{"do": "start", "rgb": "!"}', "not base64"),
        ('{"do": "start", "start": 9}', "start is 9"),
        ('{"do": "join", "world": "nowhere"}', "no world 'nowhere'"),
      ):
        await one.send(message)
        assert says in (await heard(one, "error"))["text"], message
      assert await seen(one, 1)  # and it goes on

    with pytest.raises(websockets.exceptions.InvalidStatus, match="403"):
      async with watching(page, origin="http://evil.example"):
        pass

  asyncio.run(play())
  with pytest.raises(urllib.error.HTTPError, match="403"):  # a name of another's that leads here
    urllib.request.urlopen(urllib.request.Request(page.http, headers={"Host": "evil.example"}))
  for path in ("/nowhere", "/video/nowhere.mp4", "/video/..%2f.mp4"):
    with pytest.raises(urllib.error.HTTPError, match="404"):
      urllib.request.urlopen(page.http + path)


def test_a_stalled_viewer_loses_frames_and_nothing_else(page):
  """One that does not read: the other sees each frame once, in order, and the stalled one goes on at the newest."""

  async def play():
    async with watching(page) as one:
      name = (await heard(one, "world"))["world"]
      stalled = socket.socket()
      stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
      stalled.connect(("127.0.0.1", page.serving.port))
      async with watching(page, f"?world={name}", sock=stalled, max_queue=1) as two:
        await heard(two, "world")
        frames = await seen(one, 400)
        assert [b - a for (a, _), (b, _) in zip(frames, frames[1:], strict=False)] == [1] * 399
        newest = frames[-1][0]
        late = await seen(two, 1)
        while late[-1][0] < newest:
          late += await seen(two, 1)
        numbers = [number for number, _ in late]
        assert numbers == sorted(set(numbers))
        lost = numbers[-1] - numbers[0] + 1 - len(numbers)
        dropped = (await heard(two, "numbers"))["dropped"]
        assert lost > 50 and dropped >= lost, (lost, dropped)

  asyncio.run(play())


def test_a_world_that_nobody_watches_ends(page):
  async def play():
    async with watching(page) as one:
      name = (await heard(one, "world"))["world"]
    async with asyncio.timeout(30), watching(page) as two:
      while name in (await heard(two, "numbers"))["worlds"]:
        pass

  asyncio.run(play())


def test_the_page_asks_no_other_host(page):
  with urllib.request.urlopen(page.http + "/") as reply:
    text, policy = reply.read().decode(), reply.headers["Content-Security-Policy"]
  assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "http://" not in text
  assert "https://" not in text and "src=" not in text.replace("image.src", "")


@browser.needed
def test_the_page_in_a_real_browser(page, tmp_path):
  async def play():
    async with browser.page(page.http + "/", tmp_path) as (call, ask):
      number = "Number(document.getElementById('frame')?.textContent)"  # before the page is there: not a number
      pixels = "String(document.getElementById('screen').getContext('2d').getImageData(0, 0, 16, 16).data)"
      await browser.until(ask, f"document.readyState === 'complete' && {number} > 20")
      before = await ask(pixels)
      await browser.until(ask, f"{pixels} !== '{before}'")
      await ask("document.getElementById('pause').click()")
      await browser.until(ask, "document.getElementById('pause').textContent === 'go on'")
      await asyncio.sleep(0.5)  # what was on its way
      stood = await ask(number)
      await asyncio.sleep(0.5)
      assert await ask(number) == stood
      await ask("document.getElementById('pause').click()")
      await browser.until(ask, f"{number} > {stood}")
      name = await ask("location.hash")
      await ask("document.getElementById('prompt').value = 'pull'; document.getElementById('say').click()")
      await ask("document.getElementById('fork').click()")
      await browser.until(ask, f"location.hash !== '{name}'")
      assert await ask("document.getElementById('prompt').value") == "pull"
      await ask("document.querySelector('#starts img:nth-child(2)').click()")
      await browser.until(ask, "document.getElementById('worlds').children.length >= 2")
      await browser.until(ask, "document.getElementById('fps').textContent !== '-'")
      link = await ask("document.getElementById('download').href")
      assert link.startswith(page.http + "/video/world-")
      assert await ask("fetch(document.getElementById('download').href).then((reply) => reply.status)") == 200
      assert len(base64.b64decode((await call("Page.captureScreenshot"))["data"])) > 5_000

  asyncio.run(play())


def test_the_commands_mistakes(capsys, tmp_path):
  assert cli.main(["play"]) == 2 and "needs --model=FOLDER" in capsys.readouterr().err
  assert cli.main(["play", f"--model={tmp_path}"]) == 2 and "holds no finished model" in capsys.readouterr().err
