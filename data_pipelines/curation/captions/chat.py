"""Captions, fusion and judgment by a vision-language model, behind the OpenAI-compatible interface or any other."""

import base64
import dataclasses
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
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


@runtime_checkable
class Model(Protocol):
  """A vision-language model."""

  @property
  def name(self) -> str:
    """Noted with every caption."""

  @property
  def attempts(self) -> int:
    """How often it is asked where its answer is no JSON; 1 for one that would say the same again."""

  def complete(self, text: str, pictures: Sequence[UInt8[np.ndarray, "H W 3"]]) -> str:
    """The answer to pictures and a text; KairosError if there is none."""


@dataclasses.dataclass(frozen=True)
class Server:
  """A chat server, reached by the standard library alone; a `Model`.

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

  @property
  def name(self) -> str:
    """Of the model."""
    return f"openai:{self.model}"

  def complete(self, text: str, pictures: Sequence[UInt8[np.ndarray, "H W 3"]]) -> str:
    """The answer to pictures and a text.

    Raises:
      KairosError: there was none in all attempts; what went wrong last is told.
    """
    images = [{"type": "image_url", "image_url": {"url": _data_url(picture)}} for picture in pictures]
    message = {"role": "user", "content": [*images, {"type": "text", "text": text}]}
    body = {"model": self.model, "messages": [message], "temperature": 0, "max_tokens": 1024}
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
    request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
    problem = ""
    for attempt in range(self.attempts):
      if attempt:
        time.sleep(self.pause * 2 ** (attempt - 1))
      try:
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
          answer = json.loads(response.read(_LONGEST))["choices"][0]["message"]["content"]
        if isinstance(answer, str):
          return answer
        problem = "an answer that is no text"
      except urllib.error.HTTPError as error:
        problem = f"HTTP {error.code}"
        if error.code < 500 and error.code not in (408, 429):
          break
      except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        problem = f"{type(error).__name__} {error}"
    raise KairosError(f"{self.url} gave no answer: {problem[:200]}")


def ask(model: Model, text: str, pictures: Sequence[UInt8[np.ndarray, "H W 3"]]) -> dict[str, Any]:
  """The JSON object that a model answers to a text and pictures.

  Raises:
    KairosError: it gave none in all attempts; what it said last is told.
  """
  said = ""
  for _ in range(model.attempts):
    said = model.complete(text, pictures)
    try:
      return _object(said)
    except (ValueError, RecursionError):
      continue
  raise KairosError(f"{model.name} gave no answer in JSON but {said[:100]!r}")


class ChatCaptioner:
  """Asks a model what a clip shows."""

  version = 1

  def __init__(self, model: Model):
    self._model, self.name = model, model.name

  def caption(self, view: View) -> Caption:
    """Describes one clip."""
    return _caption(ask(self._model, DESCRIBE, list(view.stills)))


class ChatFuser:
  """Asks a model to make one caption of several."""

  def __init__(self, model: Model):
    self._model = model

  def __call__(self, view: View, captions: Sequence[Caption]) -> Caption:
    if len(captions) == 1:
      return captions[0]
    given = json.dumps([dataclasses.asdict(caption) for caption in captions], ensure_ascii=False)
    return _caption(ask(self._model, FUSE + given, list(view.stills)))


class ChatJudge:
  """Asks a model how good a caption is; it should not be the one that wrote it."""

  version = 1

  def __init__(self, model: Model):
    self._model, self.name = model, model.name

  def judge(self, view: View, caption: Caption) -> Verdict:
    """Of one clip and its caption."""
    answer = ask(self._model, JUDGE + json.dumps(dataclasses.asdict(caption), ensure_ascii=False), list(view.stills))
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
