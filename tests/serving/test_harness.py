"""The policy that robo-evals loads, asked as it asks: without the package, and by the package where it is installed."""

import numpy as np
import pytest

from experiments.robots.harness import Kairos
from kairos_jax.serving.engine import Engine
from kairos_jax.serving.observation import Request
from tests import tiny
from tests.serving.conftest import STEPS


def observation(frame, moment):
  return {"ee_pos": np.linspace(0, moment, 3), "gripper": np.ones(1), "instruction": "push", "image": frame}


def test_actions_are_those_of_the_server_s_chunks(start, model, monkeypatch):
  video = tiny.frames(9, seed=3)
  with start() as running:
    monkeypatch.setenv("KAIROS_SERVER", running.uri)
    policy = Kairos()
    policy.reset("reach", 0)
    told = [policy(observation(frame, moment)) for moment, frame in enumerate(video)]
    replan = policy._client.metadata["replan"]
    policy.reset("reach", 1)
    again = policy(observation(video[0], 0))
    with pytest.raises(ValueError, match="--image-obs"):
      policy({"ee_pos": np.zeros(3)})
    policy.close()
  engine = Engine(model, capacity=1, batch=1, steps=STEPS)
  for first in range(0, len(video) - 1, replan):
    seen = video[max(0, first - replan + 1) : first + 1]
    chunk = engine.infer({"a": Request(seen, np.linspace(0, first, 3, dtype=np.float32), "push")})["a"].actions
    np.testing.assert_allclose(np.stack(told)[first : first + replan, :3], chunk[:replan], atol=1e-5)
  assert all(action.shape == (4,) and action[3] == -1 for action in told)
  np.testing.assert_allclose(again, told[0], atol=1e-5)  # nothing is left of the episode before


def test_the_harness_runs_it(start, monkeypatch):
  robo_evals = pytest.importorskip("robo_evals", reason="robo-evals is not installed")
  with start() as running:
    monkeypatch.setenv("KAIROS_SERVER", running.uri)
    policy = Kairos()
    result = robo_evals.evaluate(policy, tasks=["reach"], episodes=2, seed=0, image_obs=True, max_steps=12)
    policy.close()
  episodes = result.tasks[0].episodes
  assert len(episodes) == 2 and all(one.success or one.steps == 12 for one in episodes)
