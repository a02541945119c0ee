"""One process of several that train the toy: python -m tests.parallel.worker WORKDIR STEPS [PAUSE [HANG]]."""

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import grain
import numpy as np

from data_pipelines.curriculum.schedule import Schedule
from data_pipelines.loader import Share, Steps
from tests.training import toy

BATCH = 8
MET = 0.0  # when all processes had met


def data(pause: float, index: int, count: int):
  """The toy's batches, this process's rows of them."""

  def read(record):
    time.sleep(pause)
    return toy.sample(record)

  samples = grain.MapDataset.source(np.arange(256)).map(read).seed(0).shuffle().repeat()
  share = Share(samples, BATCH // count, index, count)
  ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
  batches = share.to_iter_dataset(ahead).batch(BATCH // count, drop_remainder=True)
  return iter(Steps([batches], Schedule(np.ones(1), np.ones(1), 1000, 0), count))


class Noted(grain.DatasetIterator):
  """An iterator that writes down which records came, and stops for good at a step if it is told to."""

  def __init__(self, batches, path: Path, hang: int):
    super().__init__()
    self._batches, self._path, self._hang, self._count = batches, path, hang, 0

  def get_state(self):
    return self._batches.get_state()

  def set_state(self, state):
    self._batches.set_state(state)

  def __next__(self):
    batch = next(self._batches)
    self._count += 1
    with self._path.open("a") as file:
      file.write(json.dumps([str(name) for name in batch["id"]]) + "\n")
    if self._count == self._hang:
      time.sleep(1000)
    return batch


def main(workdir: Path, steps: int, pause: float = 0.0, hang: int = 0) -> None:
  """Trains on all devices of all processes."""
  from kairos_jax.parallel import process
  from kairos_jax.parallel.mesh import make_mesh, reader

  process.connect()
  global MET
  MET = time.monotonic()
  import jax

  from kairos_jax.training import claim_workdir, train

  config = toy.make_config(steps, hang_seconds=int(os.environ.get("HANG_SECONDS", "600")), grad_accum_steps=1)
  with process.all_or_none("config", os.environ.get("TOLD", "")):
    mesh = make_mesh(seq=int(os.environ.get("SEQ", "1")))
  index, count = reader(mesh)
  noted = Noted(data(pause, index, count), workdir / f"records-{jax.process_index()}.jsonl", hang)
  with claim_workdir(workdir, dataclasses.asdict(config["config"])):
    train(name="toy", loss_fn=toy.loss_fn, params=toy.make_params(), workdir=workdir, mesh=mesh, data=noted, **config)


if __name__ == "__main__":
  from kairos_jax.errors import KairosError

  try:
    main(Path(sys.argv[1]), int(sys.argv[2]), *map(float, sys.argv[3:4]), *map(int, sys.argv[4:5]))
  except KairosError as error:
    print(f"kairos: {error}", file=sys.stderr)
    print(f"after {time.monotonic() - MET if MET else 0:.1f} s", file=sys.stderr)
    sys.exit(2)
