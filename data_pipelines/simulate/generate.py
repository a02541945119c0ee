"""Makes the embedded datasets: clips by their seed, and the folders of a curriculum."""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from data_pipelines import shards
from data_pipelines.records import Clip
from data_pipelines.simulate.delayed_robot import DelayedRobot
from data_pipelines.simulate.demonstrations import Demonstrations
from data_pipelines.simulate.hand import Hand
from data_pipelines.simulate.physics import Physics
from data_pipelines.simulate.robot import Robot
from data_pipelines.simulate.worded import Worded
from kairos_jax import locations
from kairos_jax.errors import KairosError
from kairos_jax.locations import Location

MOVING_SPEED = 0.08  # m/s of the balls: in the 0.8 s of a chunk further than the tip reaches
_MOVING: dict[str, Any] = dict(hidden_share=0.0, disturbed_share=1.0, shoves=0.12, misjudges=0.05, speed=MOVING_SPEED)
Simulator = Physics | Hand | Robot | DelayedRobot | Demonstrations | Worded
KINDS: dict[str, Callable[[int], Simulator]] = {  # their order is in their seeds: new ones come last
  "physics": Physics,
  "hand": Hand,
  "robot": Robot,
  "turned_robot": functools.partial(Robot, source="turned_robot", robot="turned_arm"),
  "moving_robot": functools.partial(Robot, source="moving_robot", **_MOVING),
  "delayed2": functools.partial(DelayedRobot, source="delayed2", colors=2),
  "delayed4": functools.partial(DelayedRobot, source="delayed4", colors=4),
  "delayed8": functools.partial(DelayedRobot, source="delayed8", colors=8),
  "delayed4_swap": functools.partial(DelayedRobot, source="delayed4_swap", swap=True),
  "delayed4_distract": functools.partial(DelayedRobot, source="delayed4_distract", distract=True),
  # Of the extras `robots` and `libero`.
  "metaworld": functools.partial(Demonstrations, name="metaworld", source="metaworld"),
  "fetch": functools.partial(Demonstrations, name="fetch", source="fetch"),
  "libero": functools.partial(Demonstrations, name="libero:spatial/0", source="libero", rehearse=True),
  "worded": Worded,
  "mixed_robot": functools.partial(Robot, source="mixed_robot", resting_share=0.65, **_MOVING),
}
_PER_SHARD = 64
_VERSION = 6  # of the simulators: raised when a seed draws another clip than before, so that old datasets are remade


def generate(kind: str, count: int, seed: int, size: int) -> Iterator[Clip]:
  """Clips 0 to count - 1 of a kind, `size` pixels wide; clip i depends on (kind, seed, i) and the size alone.

  Raises:
    KairosError: unknown kind, a negative seed, a size out of range, or no OpenGL.
  """
  _check(kind, seed)
  return (_clip(kind, seed, size, i) for i in range(count))


def build(
  folder: str | Location,
  counts: Mapping[str, int],
  seed: int,
  size: int,
  processes: int = 2,
  progress: Callable[[float, str], None] = lambda done, kind: None,
) -> None:
  """Writes folder/{kind}/*.array_record with its manifest, for every kind in `counts` (clips each).

  A dataset that is complete, of the same seed, count and size, is kept, and so are the shards of one that was
  interrupted. The bytes do not depend on `processes`.

  Args:
    progress: hears how many clips of all are there, and the kind that is made.

  Raises:
    KairosError: unknown kind, a count below 1, a negative seed, a size out of range, or no OpenGL.
  """
  for kind, count in counts.items():
    _check(kind, seed)
    if count < 1:
      raise KairosError(f"{count} {kind} clips asked for: at least 1")
  common = {"seed": seed, "size": size, "version": _VERSION}
  recipes = {kind: {"kind": kind, "count": count, **common} for kind, count in counts.items()}
  missing = [kind for kind, recipe in recipes.items() if not _is_complete(locations.at(folder) / kind, recipe)]
  if not missing:
    return
  done, kind = sum(counts[kind] for kind in counts if kind not in missing), missing[0]

  def hear() -> None:
    nonlocal done
    done += 1
    progress(done, kind)

  with _workers(processes, hear) as each:
    for kind in missing:
      place = locations.at(folder) / kind
      shares = [range(i, min(i + _PER_SHARD, counts[kind])) for i in range(0, counts[kind], _PER_SHARD)]
      kept = shards.go_on(place, recipes[kind])
      done += sum(len(share) for number, share in enumerate(shares) if number in kept)
      job = functools.partial(_write_shard, place, kind, seed, size)
      each(job, [(number, share) for number, share in enumerate(shares) if number not in kept])
      shards.finalize(place, kind, len(shares), recipes[kind])


@functools.cache
def _simulator(kind: str, size: int) -> Simulator:
  """One model and renderer a process."""
  return KINDS[kind](size)


def _clip(kind: str, seed: int, size: int, index: int) -> Clip:
  return _simulator(kind, size).clip(np.random.default_rng([seed, list(KINDS).index(kind), index]))


def _write_shard(
  folder: Location, kind: str, seed: int, size: int, share: tuple[int, range], made: Callable[[], None]
) -> None:
  """What one writer does: a shard's number, and the numbers of its clips; it tells of each that is made."""
  number, indices = share

  def clips() -> Iterator[Clip]:
    for index in indices:
      yield _clip(kind, seed, size, index)
      made()

  shards.write_shard(clips(), folder, number)


@contextlib.contextmanager
def _workers(processes: int, hear: Callable[[], None]) -> Iterator[Callable]:
  """Does a job for each of some shares; `hear` is called for every clip that is made.

  OpenGL contexts do not survive a fork, so processes are spawned.
  """
  if processes == 1:
    yield lambda job, shares: [job(share, hear) for share in shares]
    return
  spawn = multiprocessing.get_context("spawn")
  made, heard, others = spawn.Value("q", 0), 0, set(multiprocessing.active_children())
  pool = concurrent.futures.ProcessPoolExecutor(processes, spawn, initializer=_join, initargs=(made,))

  def each(job: Callable, shares: Sequence[tuple[int, range]]) -> None:
    nonlocal heard
    left = {pool.submit(job, share, _count) for share in shares}
    while left:
      done, left = concurrent.futures.wait(left, 0.5, concurrent.futures.FIRST_COMPLETED)
      for _ in range(made.value - heard):
        hear()
        heard += 1
      for result in done:
        result.result()

  try:
    yield each
  except BrokenProcessPool as error:
    raise KairosError("a process that simulates died; the same line goes on with what is not there yet") from error
  finally:
    pool.shutdown(wait=False, cancel_futures=True)
    for process in set(multiprocessing.active_children()) - others:  # which would end their shares first
      process.terminate()


_made: Any = None  # in a worker: the clips that all have made, a number that they share


def _join(made: Any) -> None:
  global _made
  _made = made
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is left to the parent, which ends the workers


def _count() -> None:
  with _made.get_lock():
    _made.value += 1


def _is_complete(folder: Location, recipe: Mapping[str, object]) -> bool:
  try:
    manifest = shards.read_manifest(folder)
  except KairosError:
    return False
  return manifest.get("recipe") == recipe and all((folder / shard["file"]).is_file() for shard in manifest["shards"])


def _check(kind: str, seed: int) -> None:
  if kind not in KINDS:
    raise KairosError(f"unknown kind of clip {kind!r}: {', '.join(KINDS)}")
  if seed < 0:
    raise KairosError(f"seed {seed} is negative: 0 or more")
