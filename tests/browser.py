"""Pages in a real browser, spoken to in its own debugging protocol."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.request

import pytest
import websockets.asyncio.client

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.asynccontextmanager
async def page(address, folder):
  """A page in a real browser, as a function that asks it something in its own language."""
  options = ["--headless=new", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage", "--window-size=1000,900"]
  options += ["--no-sandbox"] if os.getuid() == 0 else []
  process = subprocess.Popen(
    [CHROMIUM, *options, "--remote-debugging-port=0", f"--user-data-dir={folder}", address], stderr=subprocess.DEVNULL
  )
  try:
    ports, end = folder / "DevToolsActivePort", time.monotonic() + 120
    while not ports.exists() or len(ports.read_text().splitlines()) < 2:
      assert process.poll() is None and time.monotonic() < end, "the browser did not start"
      await asyncio.sleep(0.1)
    port = ports.read_text().splitlines()[0]
    targets: list = []
    while not (targets := [one for one in targets if one["type"] == "page" and one["url"].startswith(address)]):
      await asyncio.sleep(0.1)
      targets = await asyncio.to_thread(lambda: json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json")))
    async with websockets.asyncio.client.connect(targets[0]["webSocketDebuggerUrl"], max_size=None) as connection:
      count = 0

      async def call(method, **params):
        nonlocal count
        count += 1
        await connection.send(json.dumps({"id": count, "method": method, "params": params}))
        async with asyncio.timeout(60):
          while (reply := json.loads(await connection.recv())).get("id") != count:
            pass
        return reply["result"]

      async def ask(script):
        reply = await call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

      yield call, ask
  finally:
    process.terminate()
    process.wait(30)


async def until(ask, script):
  async with asyncio.timeout(90):
    while not (value := await ask(script)):
      await asyncio.sleep(0.1)
  return value


needed = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
