"""The reference's HTTP service for its own clients: pickles over POST /infer, read by a reader that only builds arrays.

It is for machines that have such a client already. Each request stands for itself: a memory begins with its image and
is given up after the answer. It listens on the loopback address alone, and `save_path` is never honored.

Source: the reference's WAM service (GET /health, GET /load_engine, POST /infer).
"""

import asyncio
import http.server
import json
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

from kairos_jax.errors import KairosError
from kairos_jax.serving import tensor_pickle
from kairos_jax.serving.dispatcher import Dispatcher, Refused
from kairos_jax.serving.observation import Reader, Request

_STATUS = {
  "status": "ok",
  "cfg_path": "",
  "gpu_ids": ["0"],
  "workers_loaded": True,
  "workers_loading": False,
  "load_failed": False,
  "load_error": None,
}
_WAIT = 60.0  # seconds for a request's bytes


class Legacy:
  """The service beside a server, on a thread of its own."""

  def __init__(self, reader: Reader, dispatcher: Dispatcher, horizon: int, *, port: int, max_bytes: int):
    """Opens the port; requests are answered on the running event loop. OSError if the port is taken."""
    loop = asyncio.get_running_loop()

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"
      timeout = _WAIT

      def do_GET(self) -> None:
        known = {"/health": {}, "/load_engine": {"message": "engine pool already loaded", "already_loaded": True}}
        found = self.path in known
        self._json(200 if found else 404, {**_STATUS, **known[self.path]} if found else {"detail": "Not Found"})

      def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.path != "/infer" or not length.isdecimal():
          return self._json(404 if length.isdecimal() else 411, {"detail": "POST /infer with a Content-Length"})
        if int(length) > max_bytes:
          self.close_connection = True
          return self._json(413, {"detail": f"at most {max_bytes} bytes"})
        data = self.rfile.read(int(length))
        try:
          request = read(tensor_pickle.loads(data), reader, horizon)
          chunk = asyncio.run_coroutine_threadsafe(_ask(dispatcher, request), loop).result()
        except (KairosError, tensor_pickle.UnsafePickle) as error:
          return self._json(400, {"detail": str(error)})
        except Refused as error:
          return self._json(503, {"detail": f"{error.code}: {error}"})
        except Exception:
          logging.exception("a legacy request failed")
          return self._json(500, {"detail": "the server failed"})
        return self._send(200, tensor_pickle.answer(chunk[None]), "application/octet-stream")

      def _json(self, status: int, content: Mapping[str, Any]) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

      def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

      def log_message(self, *args: Any) -> None:
        """Says nothing."""

    self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    self.port = self._server.server_address[1]
    self._thread = threading.Thread(target=self._server.serve_forever, name="legacy", daemon=True)
    self._thread.start()

  def close(self) -> None:
    """Takes no more requests, and waits for those that it has; not to be called on the event loop."""
    self._server.shutdown()
    self._server.server_close()


def read(fields: Any, reader: Reader, horizon: int) -> Request:
  """A request of the reference's client.

  Raises:
    KairosError, UnsafePickle: it is none, or asks for what this model does not do.
  """
  if not isinstance(fields, dict):
    raise KairosError("a request is a dict")
  if (mode := fields.get("wam_infer_mode", "action")) != "action":
    raise KairosError(f"wam_infer_mode is {str(mode)[:40]!r}; this server gives 'action'")
  if (asked := fields.get("robot_action_horizon", horizon)) != horizon:
    raise KairosError(f"robot_action_horizon is {str(asked)[:40]}; this model gives {horizon}")
  images = fields.get("input_image")
  image = tensor_pickle.picture(images[0] if isinstance(images, list) and images else images)
  height, width = reader.size
  if image.shape != (height, width, 3):  # the client has composed its cameras, so it is only scaled
    image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
  state = np.asarray(fields.get("robot_state"))
  seed = {} if fields.get("seed") is None else {"seed": fields["seed"]}
  return reader.request(image[None], state[0] if state.ndim == 2 else state, {"prompt": fields.get("prompt"), **seed})


async def _ask(dispatcher: Dispatcher, request: Request) -> np.ndarray:
  name = f"legacy-{uuid.uuid4().hex}"
  try:
    return (await dispatcher.infer(name, request, time.monotonic())).actions
  finally:
    await dispatcher.release(name)
