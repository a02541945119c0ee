"""CueReach as a robot: it asks a policy server what to do, as a real robot would.

    kairos serve --model=runs/demo
    python -m experiments.robots.simulated --episodes=20

For a robot of your own, replace `Robot`: `see` gives the cameras and the state that the server's metadata names, `move`
takes one action in the units that it names. All frames since the last request are sent, because the model has watched
its robot at that rate.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from absl import app, flags
from jaxtyping import Float

from data_pipelines.simulate.cue_reach import CueReach
from kairos_jax import seeds
from kairos_jax.serving.client import Client


@runtime_checkable
class Policy(Protocol):
  """Any client of a policy server, such as openpi's."""

  def infer(self, observation: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the server answers to an observation."""


class Robot:
  """The simulated arm."""

  def __init__(self, size: int):
    """Its camera gives pictures of size x size pixels."""
    self._simulator = CueReach(size)
    self.instruction = self._simulator.instruction

  def begin(self, seed: int) -> None:
    """Starts an episode."""
    self._seen, self.over, self.success = self._simulator.reset(seed), False, False

  def see(self) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
    """Pictures by camera, and the state."""
    return self._seen.images, self._seen.state

  def move(self, action: Float[np.ndarray, "A"]) -> None:
    """One step at the control rate."""
    self._seen, self.over, self.success = self._simulator.step(action)


def run_episode(policy: Policy, robot: Robot, seed: int, replan: int) -> bool:
  """Whether the robot succeeds. The noise of each call comes from the episode's seed, so it can be repeated."""
  robot.begin(seed)
  images, state = robot.see()
  frames, calls = [images], 0
  while True:
    observation = {
      "images": {name: np.stack([one[name] for one in frames]) for name in images},
      "state": state,
      "prompt": robot.instruction,
      "seed": seeds.derive(seed, "policy", calls),
    }
    actions = policy.infer(observation)["actions"]
    frames, calls = [], calls + 1
    for action in actions[:replan]:
      robot.move(action)
      images, state = robot.see()
      frames.append(images)
      if robot.over:
        return robot.success


_URI = flags.DEFINE_string("uri", "ws://localhost:8000", "of the server")
_EPISODES = flags.DEFINE_integer("episodes", 20, "to run")
_SEED = flags.DEFINE_integer("seed", 10_000, "of the first episode")


def main(argv: list[str]) -> None:
  """Runs episodes and prints how many succeeded."""
  del argv
  with Client(_URI.value) as policy:
    robot, successes = Robot(policy.metadata["picture_size"][0]), 0
    for number in range(_EPISODES.value):
      policy.reset()
      successes += run_episode(policy, robot, _SEED.value + number, policy.metadata["replan"])
      print(f"{successes} of {number + 1} succeeded", flush=True)


if __name__ == "__main__":
  app.run(main)
