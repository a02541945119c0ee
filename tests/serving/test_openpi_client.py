"""openpi's own client, unmodified, where KAIROS_OPENPI_PYTHON names an interpreter that has `openpi-client`.

It needs numpy before 2, so it lives in an environment of its own, with typing_extensions, which it does not ask for.
Where KAIROS_MODEL names a trained model of CueReach too, the client drives the robot through episodes.
"""

import io
import json
import os
import struct
import subprocess

import numpy as np
import pytest

from data_pipelines.simulate.cue_reach import CueReach
from experiments.robots.simulated import Robot, run_episode
from kairos_jax import runtime
from kairos_jax.evaluation.closed_loop import run_episodes
from kairos_jax.evaluation.policies import ModelPolicy
from kairos_jax.serving.engine import Engine
from kairos_jax.serving.observation import Request
from kairos_jax.serving.server import Options, Server
from tests import tiny
from tests.serving.conftest import STEPS, Running

PYTHON = os.environ.get("KAIROS_OPENPI_PYTHON")
MODEL = os.environ.get("KAIROS_MODEL")
EPISODES = 50
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


# Its own process asks the server; the robot is in ours. A connection is a session: its `reset` sends nothing, and it
# has no way to end one.
ASKS = """
import io, struct, sys
import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy

policy, (read, write) = None, (sys.stdin.buffer.read, sys.stdout.buffer.write)
while size := read(4):
  asked = dict(np.load(io.BytesIO(read(struct.unpack("<I", size)[0]))))
  if asked.pop("begins"):
    policy = WebsocketClientPolicy(sys.argv[1])
  observation = {k: v.item() if v.ndim == 0 else v for k, v in asked.items()}
  answer = io.BytesIO()
  np.save(answer, policy.infer(observation)["actions"])
  write(struct.pack("<I", len(answer.getvalue())) + answer.getvalue())
  sys.stdout.flush()
"""


class TheirClient:
  """A policy that is asked through openpi's client."""

  def __init__(self, process):
    self._process, self.begins = process, True

  def infer(self, observation):
    asked, images = io.BytesIO(), {f"observation/{name}": video for name, video in observation["images"].items()}
    state, seed = observation["state"], np.uint64(observation["seed"])
    np.savez(asked, **images, state=state, prompt=observation["prompt"], seed=seed, begins=self.begins)
    self.begins = False
    self._process.stdin.write(struct.pack("<I", len(asked.getvalue())) + asked.getvalue())
    self._process.stdin.flush()
    (size,) = struct.unpack("<I", self._process.stdout.read(4))
    return {"actions": np.load(io.BytesIO(self._process.stdout.read(size)))}


@pytest.mark.slow
@pytest.mark.skipif(not MODEL, reason="KAIROS_MODEL names no trained model")
def test_openpis_client_succeeds_where_the_model_does_in_process():
  served = runtime.load(MODEL)
  seeds = range(10_000, 10_000 + EPISODES)
  robot, outcomes = Robot(served.saved.frame_size[0]), {}
  with Running(Server(Engine(served, capacity=EPISODES, batch=1), Options(port=0, deadline=60.0))) as running:
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen([PYTHON, "-c", ASKS, running.uri], **pipes) as process:
      for seed in seeds:
        outcomes[seed] = bool(run_episode(TheirClient(process), robot, seed, served.codec.time_stride))
      process.stdin.close()
  environment = CueReach(served.saved.frame_size[0])
  policy = ModelPolicy(served, [environment.instruction], "slide_arm")
  alone = {episode.seed: episode.success for episode in run_episodes([environment], seeds, policy)}
  print(f"openpi's client {sum(outcomes.values())}, in process {sum(alone.values())} of {EPISODES}")
  assert outcomes == alone
