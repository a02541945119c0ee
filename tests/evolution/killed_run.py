"""Whole evolution runs in processes that are killed at random moments.

  python -m tests.evolution.killed_run FOLDER KILLS

Runs one undisturbed, and then as many as it takes for KILLS kills, each in a folder of its own.
"""

import dataclasses
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from data_pipelines.simulate.generate import build
from kairos_jax.evolution.rounds import Evolution, evolve
from kairos_jax.interop import saved_model
from kairos_jax.replay import Replay
from tests import tiny


def prepare(folder):
  build(folder / "data", dict(robot=3), seed=0, size=16, processes=1)
  saved_model.save(folder / "base", dataclasses.replace(tiny.saved(), frame_size=(16, 16)))


def run(folder, name):
  """What the command does; each episode is told of on a pipe once it is kept."""
  add = Replay.add

  def told(self, clip, origin):
    assert add(self, clip, origin), "an episode was run again after it was kept"
    with open(folder / name / "told", "a") as file:
      file.write(json.dumps([origin.model, origin.seed]) + "\n")
    return True

  Replay.add = told
  options = dict(rounds=2, episodes=3, steps=2, held_out=2)
  evolve(Evolution(str(folder / "base"), str(folder / "data/robot"), "nft", **options), folder / name)


def in_a_process(work, *arguments, kill_after=None):
  """Whether it came to its end."""
  child = os.fork()
  if not child:
    try:
      work(*arguments)
    except BaseException as error:
      print(f"{work.__name__}: {error!r}", flush=True)
      os._exit(1)
    os._exit(0)
  deadline = time.monotonic() + (kill_after or 1e9)
  while True:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
      assert status == 0, f"{work.__name__}{arguments} ended with {status}"
      return True
    if time.monotonic() > deadline:
      os.kill(child, signal.SIGKILL)
      os.waitpid(child, 0)
      return False
    time.sleep(0.01)


def main():
  """JAX begins in the children only, for a process in which it runs cannot be forked."""
  folder, kills = Path(sys.argv[1]), int(sys.argv[2])
  in_a_process(prepare, folder)
  for name in ("compiled", "undisturbed"):
    begin = time.monotonic()
    in_a_process(run, folder, name)
  seconds, number = time.monotonic() - begin, 0
  while kills:
    number += 1
    while kills and not in_a_process(run, folder, f"killed_{number}", kill_after=random.uniform(0, seconds)):
      kills -= 1
    in_a_process(run, folder, f"killed_{number}")


if __name__ == "__main__":
  main()
