"""Fills a replay in processes that are killed at random moments: python -m tests.evolution.killed FOLDER KILLS."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from data_pipelines.records import Clip
from kairos_jax.replay import Origin, Replay

SEEDS = range(1000, 1120)
MODEL, ENVIRONMENT = "f" * 64, "cue_reach"


def episode(seed):
  """A clip of some size, so that a kill may come while it is written."""
  rng = np.random.default_rng(seed)
  origin = Origin(MODEL, ENVIRONMENT, seed, bool(rng.integers(2)))
  clip = Clip(
    cameras={"front": rng.integers(0, 256, (40, 32, 32, 3), np.uint8)},
    video_fps=10.0,
    action_hz=10.0,
    state=rng.standard_normal((40, 3)).astype(np.float32),
    action=rng.standard_normal((39, 3)).astype(np.float32),
    state_mask=np.ones(40, bool),
    action_mask=np.ones(39, bool),
    embodiment="slide_arm",
    source="rollouts",
    license="Apache-2.0",
    caption="",
    instruction="",
    provenance={"origin": origin._asdict()},
  )
  return clip, origin


def fill(folder):
  """What a run does: the episodes that are not there, each told of on a pipe once it is kept."""
  replay = Replay(folder)
  there = replay.kept(MODEL, ENVIRONMENT)
  for seed in SEEDS:
    if seed not in there:
      assert replay.add(*episode(seed))
      with open(folder / "told", "a") as told:
        told.write(f"{seed}\n")


def main():
  folder, kills = Path(sys.argv[1]), int(sys.argv[2])
  folder.mkdir(parents=True, exist_ok=True)
  for kill in range(kills + 1):
    child = os.fork()
    if not child:
      fill(folder)
      os._exit(0)
    if kill < kills:
      time.sleep(random.uniform(0, 0.03))
      os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


if __name__ == "__main__":
  main()
