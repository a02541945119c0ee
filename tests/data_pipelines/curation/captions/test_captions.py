"""Captioners, fusers and judges: without a model, and with a server that misbehaves."""

import dataclasses
import http.server
import json
import threading

import numpy as np
import pytest

from data_pipelines.curation.captions import (
  Caption,
  Captioner,
  ChatCaptioner,
  ChatFuser,
  ChatJudge,
  Judge,
  Rubric,
  Server,
  TemplateCaptioner,
  agreeing,
)
from data_pipelines.curation.operators.view import View
from kairos_jax.errors import KairosError
from tests.data_pipelines.conftest import make_clip

VIEW = View(make_clip(3, frames=12, size=24))
GOOD = {"detailed": "A gray square grows brighter.", "instruction": "", "phenomenon": "light", "explanation": "a lamp"}


@pytest.fixture
def serve():
  """Starts a server that gives these answers, one after the other; gives its address and what it was asked."""
  servers = []

  def start(*answers):
    asked, left = [], list(answers)

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_POST(self):
        asked.append((self.path, dict(self.headers), json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        status, text = left.pop(0)
        body = text if isinstance(text, bytes) else json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

      def log_message(self, *args):
        pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    servers.append(server)
    return Server(f"http://127.0.0.1:{server.server_address[1]}/v1", "a-model", "secret", timeout=10, pause=0.01), asked

  yield start
  for server in servers:
    server.shutdown()


def test_a_server_is_shown_the_frames_and_asked_once(serve):
  server, asked = serve((200, "```json\n" + json.dumps(GOOD) + "\n```"))
  captioner = ChatCaptioner(server)
  caption = captioner.caption(VIEW)
  assert caption.text == "A gray square grows brighter. [PHENOMENON] light [EXPLANATION] a lamp"
  ((path, headers, body),) = asked
  assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
  content = body["messages"][0]["content"]
  assert [part["type"] for part in content] == ["image_url"] * 5 + ["text"] and body["temperature"] == 0
  assert content[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
  assert captioner.name == "openai:a-model" and "secret" not in repr(server)


def test_a_busy_server_and_one_that_does_not_speak_json_are_asked_again(serve):
  server, asked = serve((503, b"busy"), (200, "Sorry, I see nothing."), (200, json.dumps(GOOD)))
  assert ChatCaptioner(server).caption(VIEW).detailed == GOOD["detailed"]
  assert len(asked) == 3


@pytest.mark.parametrize(
  ("answers", "requests"),
  [
    ([(401, b"no")], 1),
    ([(200, "[1, 2]")] * 3, 3),
    ([(200, b"\xff\xfe" * 40)] * 3, 3),
    ([(200, b"{}")] * 3, 3),
    ([(200, "[" * 100_000)] * 3, 3),
    ([(200, '{"detailed": ""}')], 1),
  ],
  ids=["refused", "a list", "no text", "no answer", "nested", "empty"],
)
def test_what_is_no_caption_is_one_line(serve, answers, requests):
  server, asked = serve(*answers)
  with pytest.raises(KairosError, match="gave no answer|without a detailed caption"):
    ChatCaptioner(server).caption(VIEW)
  assert len(asked) == requests


def test_nobody_there_is_one_line():
  server = Server("http://127.0.0.1:9/v1", "m", timeout=1, attempts=2, pause=0.0)
  with pytest.raises(KairosError, match="gave no answer"):
    ChatCaptioner(server).caption(VIEW)


def test_fuser_and_judge_of_a_server(serve):
  captions = [Caption("one thing"), Caption("another thing")]
  server, asked = serve((200, '{"detailed": "both things"}'))
  assert ChatFuser(server)(VIEW, captions[:1]) == captions[0] and not asked
  assert ChatFuser(server)(VIEW, captions).detailed == "both things"
  assert "another thing" in asked[0][2]["messages"][0]["content"][-1]["text"]
  server, asked = serve((200, '{"score": 0.25, "reason": "dim"}'), (200, '{"score": 7}'))
  judge = ChatJudge(server)
  assert isinstance(judge, Judge)
  assert dataclasses.astuple(judge.judge(VIEW, captions[0])) == (0.25, "dim")
  with pytest.raises(KairosError, match="a number from 0 to 1"):
    judge.judge(VIEW, captions[0])


def test_the_template_says_what_is_known_and_measured():
  captioner = TemplateCaptioner()
  assert isinstance(captioner, Captioner)
  caption = captioner.caption(VIEW)
  assert caption == captioner.caption(View(make_clip(3, frames=12, size=24)))
  assert caption.instruction == "do it" and "clip 3" in caption.detailed and "slide arm" in caption.detailed
  assert "dark" in caption.detailed and "1.2 seconds" in caption.detailed
  bright = make_clip(state_dim=0, action_dim=0, cameras={"front": np.full((9, 8, 8, 3), 250, np.uint8)})
  assert "bright and hardly moves" in captioner.caption(View(bright)).detailed


def test_the_two_forms_of_physics_reasoning():
  assert Caption("it falls", phenomenon="p", explanation="e").text == "it falls [PHENOMENON] p [EXPLANATION] e"
  assert Caption("it falls", process="first, then").text == "[CAPTION] it falls [PROCESS] first, then"
  assert Caption("it falls", phenomenon="p").text == "it falls"


def test_the_most_agreeing_caption_wins():
  captions = [Caption("purple elephants fly"), Caption("a red cube falls down"), Caption("a red cube falls")]
  assert agreeing(VIEW, captions).detailed in ("a red cube falls down", "a red cube falls")
  assert agreeing(VIEW, captions[:1]) == captions[0]


@pytest.mark.parametrize(
  ("text", "instruction", "least", "most", "reason"),
  [
    ("A robot arm reaches for the red ball.", "touch it", 1.0, 1.0, "no fault"),
    ("", "touch it", 0.0, 0.0, "only 0 words"),
    ("I'm sorry, I cannot see the video at all.", "touch it", 0.0, 0.0, "refusal"),
    ("the arm " * 30, "touch it", 0.0, 0.49, "repeats"),
    ("The <b>robot</b> arm reaches for the ball.", "touch it", 0.5, 0.5, "markup"),
    ("A robot arm reaches for the red ball.", "", 0.7, 0.7, "lost the instruction"),
  ],
)
def test_the_rubric_finds_faults(text, instruction, least, most, reason):
  verdict = Rubric().judge(VIEW, Caption(text, instruction))
  assert least <= verdict.score <= most and reason in verdict.reason
