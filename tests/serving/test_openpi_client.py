"""openpi's own client, unmodified, where KAIROS_OPENPI_PYTHON names an interpreter that has `openpi-client`.

It needs numpy before 2, so it lives in an environment of its own.
"""

import json
import os
import subprocess

import numpy as np
import pytest

from kairos_jax.serving.engine import Engine
from kairos_jax.serving.observation import Request
from tests import tiny
from tests.serving.conftest import STEPS

PYTHON = os.environ.get("KAIROS_OPENPI_PYTHON")
pytestmark = pytest.mark.skipif(not PYTHON, reason="KAIROS_OPENPI_PYTHON names no interpreter with openpi-client")

ROBOT = """
import json, sys
import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy

policy = WebsocketClientPolicy(sys.argv[1], api_key="sesame")
answers = []
for call, video in enumerate(np.load(sys.argv[2])):
  state = np.linspace(0, call, 3, dtype=np.float32)
  reply = policy.infer({"observation/front": video, "observation/state": state, "prompt": "push"})
  answers.append([reply["actions"].tolist(), sorted(reply), sorted(reply["server_timing"])])
try:
  policy.infer({"prompt": "push"})
except RuntimeError as error:
  print("RESULT" + json.dumps([policy.get_server_metadata(), answers, str(error)]))
"""


def test_openpis_client_is_answered_as_in_process(start, model, tmp_path):
  videos = np.stack([tiny.frames(4, seed=i) for i in range(5)])
  np.save(tmp_path / "videos.npy", videos)
  with start(api_key="sesame") as running:
    command = [PYTHON, "-c", ROBOT, running.uri, str(tmp_path / "videos.npy")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert run.returncode == 0, run.stderr
  told, answers, error = json.loads(run.stdout.split("RESULT")[1])
  assert told["cameras"] == ["front"] and error.endswith("invalid: camera 'front' is missing; this robot has front")
  engine = Engine(model, capacity=1, batch=1, steps=STEPS)
  for call, (video, (actions, keys, timings)) in enumerate(zip(videos, answers, strict=True)):
    want = engine.infer({"a": Request(video, np.linspace(0, call, 3, dtype=np.float32), "push")})["a"]
    np.testing.assert_allclose(actions, want.actions, atol=1e-5)
    assert {"actions", "state", "policy_timing", "server_timing"} <= set(keys)
    assert timings == (["infer_ms", "prev_total_ms"] if call else ["infer_ms"])
