"""Clips a second of our loader, beside LeRobot's own on the same episodes.

The episodes are the embedded simulator's. Ours reads them from records of pixels, compressed by zstd and raw, at random
and from random frames on. LeRobot reads its mp4 likewise, by each of its decoders, with two workers. Our reader of that
format, which an import uses, goes through the same mp4 in order. All take turns, and what was read ahead before is not
counted.
"""

import contextlib
import itertools
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines import shards
from data_pipelines.curriculum.buckets import Shapes
from data_pipelines.curriculum.schedule import Mixture
from data_pipelines.loader import make_loader
from data_pipelines.normalize import make_normalizers
from data_pipelines.records import Clip
from data_pipelines.simulate.cue_reach import CueReach
from data_pipelines.simulate.filming import simulated_clip
from data_pipelines.source import ArrayRecordSource
from data_pipelines.sources import open_source
from data_pipelines.sources.lerobot_writer import write_lerobot
from kairos_jax import console
from kairos_jax.errors import KairosError

SIZE, FRAMES, BATCH, WORKERS = 256, 33, 4, 2
EPISODES, LENGTH = 24, 66  # frames
BATCHES = 8  # of a turn; as many are read before they count
BACKENDS = ("torchcodec", "pyav")  # of LeRobot


class Rate(NamedTuple):
  """Clips a second: by the clock, and of processor time."""

  wall: float
  processor: float


def write(folder: str | Path) -> None:
  """Writes the episodes to folder/records, folder/raw and folder/lerobot, unless they are there."""
  folder = Path(folder)
  if not (folder / "records" / shards.MANIFEST).is_file():
    shards.write_shards(_episodes(), folder / "records", "records", EPISODES)
  if not (folder / "raw" / shards.MANIFEST).is_file():
    shards.write_shards(_episodes(), folder / "raw", "raw", EPISODES, compressed=False)
  if not (folder / "lerobot").exists():
    write_lerobot(_episodes(), folder / "lerobot")


def measure(folder: str | Path, lerobot: str | None, rounds: int) -> dict[str, list[Rate]]:
  """The rates of each in every turn.

  Args:
    folder: what `write` wrote.
    lerobot: an interpreter that has the package, or None.
    rounds: turns of each.

  Raises:
    KairosError: that interpreter's loader begins with no decoder.
  """
  folder = Path(folder)
  with contextlib.ExitStack() as held:
    in_order = held.enter_context(contextlib.closing(_in_order(folder / "lerobot")))
    turns: dict[str, Callable[[], Rate]] = {
      "records": _timed(_records(folder / "records"), BATCHES, BATCH),
      "records, raw": _timed(_records(folder / "raw"), BATCHES, BATCH),
      "mp4, in order": _timed(in_order, BATCHES * BATCH, 1),
    }
    failed = []
    for backend in BACKENDS:
      if lerobot is None:
        break
      try:
        turns[f"lerobot, {backend}"] = held.enter_context(_peer(lerobot, folder / "lerobot", backend))
      except KairosError as error:
        failed.append(error)
        console.show(str(error))
    if lerobot and len(failed) == len(BACKENDS):
      raise failed[0]
    rates: dict[str, list[Rate]] = {name: [] for name in turns}
    for _, (name, turn) in itertools.product(range(rounds), turns.items()):
      rates[name].append(turn())
  return rates


def medians(rates: Mapping[str, Sequence[Rate]]) -> dict[str, Rate]:
  """Of all turns."""
  return {name: Rate(*np.median(np.array(every), axis=0).tolist()) for name, every in rates.items()}


def _timed(samples: Iterator, count: int, clips: int) -> Callable[[], Rate]:
  """A turn: so many are read and not counted, so many are; each holds so many clips."""

  def turn() -> Rate:
    for _ in range(count):
      next(samples)
    begin, busy = time.perf_counter(), time.process_time()
    for _ in range(count):
      next(samples)
    return Rate(count * clips / (time.perf_counter() - begin), count * clips / (time.process_time() - busy))

  return turn


def _records(folder: Path) -> Iterator:
  source = ArrayRecordSource(folder)
  return make_loader(
    {"records": source},
    Mixture({"records": 1.0}, {"records": 1.0}),
    batch_size=BATCH,
    shapes=Shapes({FRAMES: FRAMES}),
    video_fps=10.0,
    seed=0,
    tokenize=lambda text: np.zeros(1, np.int32),
    steps=1000,
    crop="random",
    instruction_share=(1.0, 1.0),
    state_dim=3,
    action_dim=3,
    normalizers=make_normalizers({"records": source}),
  )


def _in_order(folder: Path) -> Generator[np.ndarray, None, None]:
  """Clip after clip of the dataset, again and again; the rest of an episode is decoded and left."""
  while True:
    for clip in open_source("lerobot", folder, embodiment="slide_arm", cameras={"front": "observation.images.front"}):
      for begin in range(0, clip.frames - FRAMES + 1, FRAMES):
        yield clip.cameras["front"][begin : begin + FRAMES]


@contextlib.contextmanager
def _peer(python: str, folder: Path, backend: str) -> Iterator[Callable[[], Rate]]:
  script = Path(__file__).with_name("lerobot_peer.py")
  command = [python, str(script), str(folder), backend, *map(str, (BATCH, FRAMES, WORKERS))]
  run = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
  assert run.stdin and run.stdout

  def turn() -> Rate:
    assert run.stdin and run.stdout
    for _ in range(2):
      run.stdin.write(f"{BATCHES}\n")
      run.stdin.flush()
      wall, busy = map(float, run.stdout.readline().split())
    return Rate(BATCHES * BATCH / wall, BATCHES * BATCH / busy)

  try:
    said = next((line for line in run.stdout if line.startswith("ready")), "")
    if said.split()[1:] != list(map(str, (BATCH, FRAMES, 3, SIZE, SIZE))):
      raise KairosError(f"LeRobot's loader in {python} does not begin with {backend} ({said.strip() or 'see above'})")
    yield turn
  finally:
    run.stdin.close()
    run.wait()


def _episodes() -> Iterator[Clip]:
  """Long enough for a clip to begin anywhere in the first half."""
  environment = CueReach(SIZE)
  for episode in range(EPISODES):
    observations, actions = [environment.reset(episode)], []
    for _ in range(LENGTH):
      actions.append(environment.expert())
      observations.append(environment.step(actions[-1])[0])
    yield simulated_clip(
      [seen.images["front"] for seen in observations],
      source="records",
      embodiment=environment.embodiment,
      caption=environment.instruction,
      instruction=environment.instruction,
      states=[seen.state for seen in observations],
      actions=actions,
    )
