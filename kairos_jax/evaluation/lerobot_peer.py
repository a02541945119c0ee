"""LeRobot's own loader, in an interpreter that has the package: says "ready", then times as many batches as it is told.

  python kairos_jax/evaluation/lerobot_peer.py DATASET BACKEND BATCH FRAMES WORKERS

This file imports nothing of ours, because that interpreter has nothing of ours.
"""

import itertools
import multiprocessing
import os
import sys
import time
from pathlib import Path


def processor_seconds() -> float:
  """Of this process and of its workers."""
  processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
  ticks = 0
  for process in processes:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    ticks += int(fields[11]) + int(fields[12])
  return ticks / os.sysconf("SC_CLK_TCK")


def main(folder: str, backend: str, batch: int, frames: int, workers: int) -> None:
  """Answers a line with a number N by the seconds that N batches took, by the clock and of processors."""
  import torch
  from lerobot.datasets.lerobot_dataset import LeRobotDataset

  times = [frame / LeRobotDataset("peer/data", root=folder).fps for frame in range(frames)]
  keys = ("observation.images.front", "observation.state", "action")
  dataset = LeRobotDataset("peer/data", root=folder, delta_timestamps=dict.fromkeys(keys, times), video_backend=backend)
  # Samples that begin so late in an episode that they would be padded are left out, as ours leave them out.
  starts: list[int] = []
  for row in range(len(dataset.meta.episodes)):
    episode = dataset.meta.episodes[row]
    starts += range(episode["dataset_from_index"], episode["dataset_to_index"] - frames + 1)
  loader = torch.utils.data.DataLoader(
    torch.utils.data.Subset(dataset, starts), batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
  )
  batches = itertools.chain.from_iterable(itertools.repeat(loader))
  shape = tuple(next(batches)[keys[0]].shape)
  print("ready", *shape, flush=True)
  for line in sys.stdin:
    begin, busy = time.perf_counter(), processor_seconds()
    for _ in range(int(line)):
      next(batches)
    print(time.perf_counter() - begin, processor_seconds() - busy, flush=True)


if __name__ == "__main__":
  main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
