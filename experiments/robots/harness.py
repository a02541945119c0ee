"""The independent harness robo-evals asks a policy server of ours, as it asks any other policy.

    kairos serve --model=runs/metaworld
    pip install robo-evals
    robo-evals run --policy experiments/robots/harness.py:Kairos --suite core --image-obs

KAIROS_SERVER names another server than ws://localhost:8000. The harness drives a floating gripper at 20 Hz: its state
is the place of the grip point [3] (m) and how far the fingers are open, its action a displacement [3] and a grip. It
imports this file by the file's name, which must not be that of its own package.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from kairos_jax.serving.client import Client

_OPEN = -1.0  # of the grip, for a model that has no fingers


class Kairos:
  """A policy as the harness calls it: one observation, one action. It asks the server for a chunk now and then."""

  def __init__(self) -> None:
    """Connects. Raises ConnectionError where there is no server."""
    self._client = Client(os.environ.get("KAIROS_SERVER", "ws://localhost:8000"))
    self._frames: list[np.ndarray] = []
    self._left: list[np.ndarray] = []  # actions of the last chunk

  def reset(self, task: str, seed: int) -> None:
    """Begins an episode."""
    self._client.reset()
    self._frames, self._left = [], []

  def __call__(self, observation: Mapping[str, Any]) -> Float[np.ndarray, "4"]:
    """The next action.

    Raises:
      ValueError: the harness gives no pictures.
      ServerError: the server refused.
    """
    if "image" not in observation:
      raise ValueError("there is no picture in the observation: run robo-evals with --image-obs")
    self._frames.append(observation["image"])
    if not self._left:
      told = self._client.metadata
      state = np.concatenate([observation["ee_pos"], observation["gripper"]])[: len(told["state"])]
      images = {told["cameras"][0]: np.stack(self._frames)}
      request = {"images": images, "state": state.astype(np.float32), "prompt": observation["instruction"]}
      self._left = list(self._client.infer(request)["actions"][: told["replan"]])
      self._frames = []
    action = self._left.pop(0)
    return np.append(action, [_OPEN] * (4 - len(action))).astype(np.float64)

  def close(self) -> None:
    """Ends the connection."""
    self._client.close()
