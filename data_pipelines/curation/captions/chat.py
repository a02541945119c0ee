"""Captions by a vision-language model behind the OpenAI-compatible chat interface, with the standard library alone."""

import base64
import dataclasses
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from PIL import Image

from data_pipelines.curation.captions.base import Caption, Verdict
from data_pipelines.curation.operators.view import View
from kairos_jax.errors import KairosError

_LONGEST = 2**20  # bytes of an answer
_KEYS = tuple(field.name for field in dataclasses.fields(Caption))

DESCRIBE = (
  "These are frames of one video, in order. Answer with one JSON object of texts: "
  '"detailed": what is seen and what happens, in two to five sentences; '
  '"instruction": if something is done on purpose, the short imperative that would ask for it, else ""; '
  '"phenomenon": the physical phenomenon that is seen, else ""; "explanation": why it happens, else ""; '
  '"process": the steps by which it comes about, else "". Say only what is seen.'
)
FUSE = (
  "These are frames of one video, and captions that several observers wrote. Make one caption of them: keep what the "
  "frames confirm, drop what they contradict. Answer with one JSON object of the same keys. The captions: "
)
JUDGE = (
  "These are frames of one video, and a caption that somebody wrote. Answer with one JSON object: "
  '"score": from 0 (wrong or useless) to 1 (true and complete), "reason": in one sentence. The caption: '
)


@dataclasses.dataclass(frozen=True)
class Server:
  """A chat server.

  Attributes:
    url: up to /v1, as in http://localhost:8000/v1.
    model: as the server calls it.
    key: sent as a bearer token; empty if it wants none.
    timeout: seconds for one answer.
    attempts: where the server is busy or does not answer in JSON.
    pause: seconds before the second attempt, twice as many before each further one.
  """

  url: str
  model: str
  key: str = dataclasses.field(default="", repr=False)
  timeout: float = 120.0
  attempts: int = 3
  pause: float = 1.0

  def ask(self, text: str, view: View) -> dict[str, Any]:
    """The JSON object that the model answers to a text and a clip's frames.

    Raises:
      KairosError: it gave none in all attempts; what it said last is told.
    """
    images = [{"type": "image_url", "image_url": {"url": _data_url(still)}} for still in view.stills]
    message = {"role": "user", "content": [*images, {"type": "text", "text": text}]}
    body = {"model": self.model, "messages": [message], "temperature": 0, "seed": 0, "max_tokens": 1024}
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
    request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
    problem = ""
    for attempt in range(self.attempts):
      if attempt:
        time.sleep(self.pause * 2 ** (attempt - 1))
      try:
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
          answer = json.loads(response.read(_LONGEST))
        return _object(answer["choices"][0]["message"]["content"])
      except urllib.error.HTTPError as error:
        problem = f"HTTP {error.code}"
        if error.code < 500 and error.code not in (408, 429):
          break
      except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        problem = f"{type(error).__name__} {error}"
    raise KairosError(f"{self.url} gave no caption: {problem[:200]}")


class ChatCaptioner:
  """Asks a server what a clip shows."""

  version = 1

  def __init__(self, server: Server):
    self._server, self.name = server, f"openai:{server.model}"

  def caption(self, view: View) -> Caption:
    """Describes one clip."""
    return _caption(self._server.ask(DESCRIBE, view))


class ChatFuser:
  """Asks a server to make one caption of several."""

  def __init__(self, server: Server):
    self._server = server

  def __call__(self, view: View, captions: Sequence[Caption]) -> Caption:
    if len(captions) == 1:
      return captions[0]
    given = json.dumps([dataclasses.asdict(caption) for caption in captions], ensure_ascii=False)
    return _caption(self._server.ask(FUSE + given, view))


class ChatJudge:
  """Asks a server how good a caption is; it should not be the one that wrote it."""

  version = 1

  def __init__(self, server: Server):
    self._server, self.name = server, f"openai:{server.model}"

  def judge(self, view: View, caption: Caption) -> Verdict:
    """Of one clip and its caption."""
    answer = self._server.ask(JUDGE + json.dumps(dataclasses.asdict(caption), ensure_ascii=False), view)
    score = answer.get("score")
    if not isinstance(score, int | float) or isinstance(score, bool) or not 0 <= score <= 1:
      raise KairosError(f"{self.name} judged with {score!r}: a number from 0 to 1 is required")
    return Verdict(float(score), str(answer.get("reason", "")))


def _object(text: str) -> dict[str, Any]:
  """The JSON object in an answer, which models like to wrap in words or a code block."""
  start, end = text.find("{"), text.rfind("}")
  value = json.loads(text[start : end + 1])
  if not isinstance(value, dict):
    raise ValueError("the answer is no JSON object")
  return value


def _caption(answer: dict[str, Any]) -> Caption:
  texts = {key: " ".join(str(answer.get(key) or "").split()) for key in _KEYS}
  if not texts["detailed"]:
    raise KairosError("a captioner answered without a detailed caption")
  return Caption(**texts)


def _data_url(picture: Any) -> str:
  out = io.BytesIO()
  Image.fromarray(picture).save(out, "JPEG", quality=90)
  return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
