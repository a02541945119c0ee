"""Imagining without end: a video that is streamed chunk after chunk, and what each chunk costs."""

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from kairos_jax import files, seeds
from kairos_jax.errors import KairosError
from kairos_jax.model.memory import require_constant_size
from kairos_jax.runtime.stream import Stream
from kairos_jax.runtime.world_model import WorldModel

WARM_UP = 5  # chunks until compiled code, allocator and video encoder have taken their memory


class Cost(NamedTuple):
  """What one chunk cost: its wall time, and the process's resident memory after it."""

  chunk: int
  imagined_seconds: float  # of video so far, this chunk included
  seconds: float
  resident_bytes: int


class Summary(NamedTuple):
  """Whether cost stayed constant. Quarters are of the run without its first chunk, which compiles."""

  first_quarter: float  # median seconds a chunk
  last_quarter: float
  settled_bytes: int  # after WARM_UP chunks
  final_bytes: int

  @property
  def ratio(self) -> float:
    return self.last_quarter / self.first_quarter

  @property
  def growth(self) -> int:
    return self.final_bytes - self.settled_bytes


def rollout(
  model: WorldModel,
  first_frames: UInt8[np.ndarray, "T H W 3"],
  instruction: str,
  frames: int,
  chunk: int = 16,
  seed: int = 0,
) -> Iterator[UInt8[np.ndarray, "{chunk} H W 3"]]:
  """Streams the video that follows `first_frames`; each chunk is imagined, then becomes history of the next.

  Args:
    first_frames: 1 + 4n frames.
    frames: how many to imagine; rounded up to whole chunks.
    chunk: frames imagined at once, a whole number of latents' worth.
    seed: of the noise; the same one gives the same video.

  Raises:
    KairosError: the model's memory grows with the video, or a number of frames is not allowed.
  """
  require_constant_size(model.saved.model_config)
  if frames < 1:
    raise KairosError(f"rollout: {frames} frames asked for; at least 1")
  model.latents_of(chunk)
  return _chunks(model, model.prefill(first_frames, instruction), -(-frames // chunk), chunk, seed)


def resident_bytes() -> int:
  """Memory that this process holds now; its peak so far where there is no /proc."""
  try:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
  except FileNotFoundError:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def timed(
  chunks: Iterable[UInt8[np.ndarray, "T H W 3"]],
  fps: float,
  clock: Callable[[], float] = time.perf_counter,
  memory: Callable[[], int] = resident_bytes,
) -> Iterator[tuple[UInt8[np.ndarray, "T H W 3"], Cost]]:
  """Each chunk with what it cost to produce; the time its consumer takes does not count."""
  iterator, count, frames = iter(chunks), 0, 0
  while True:
    start = clock()
    chunk = next(iterator, None)
    if chunk is None:
      return
    seconds = clock() - start
    count, frames = count + 1, frames + len(chunk)
    yield chunk, Cost(count, frames / fps, seconds, memory())


def summarize(costs: Sequence[Cost]) -> Summary:
  """Compares the end of a run of at least one chunk with its beginning."""
  compiled = costs[1:] or costs
  quarter = max(1, len(compiled) // 4)
  first, last = (statistics.median(c.seconds for c in part) for part in (compiled[:quarter], compiled[-quarter:]))
  settled = costs[min(WARM_UP, len(costs)) - 1]
  return Summary(first, last, settled.resident_bytes, costs[-1].resident_bytes)


def plot(costs: Sequence[Cost], path: str | os.PathLike) -> None:
  """Draws time a chunk and resident memory over imagined minutes, as a picture."""
  compiled = costs[1:] or costs
  minutes = [c.imagined_seconds / 60 for c in compiled]
  panels = {
    "time a chunk, s": [c.seconds for c in compiled],
    "resident memory, MB": [c.resident_bytes / 1e6 for c in compiled],
  }
  figure = Figure(figsize=(9, 3.2), layout="constrained")
  for axes, (label, values) in zip(figure.subplots(1, 2), panels.items(), strict=True):
    axes.plot(minutes, values, linewidth=1, marker="." if len(values) < 50 else None)
    axes.set(xlabel="imagined minutes", ylabel=label, ylim=(0, 1.2 * max(values)))
    axes.spines[["top", "right"]].set_visible(False)
  with files.replaced(path) as partial:
    figure.savefig(partial, dpi=150)


def _chunks(
  model: WorldModel, stream: Stream, chunks: int, frames: int, seed: int
) -> Iterator[UInt8[np.ndarray, "T H W 3"]]:
  for index in range(chunks):
    latents = model.imagine_latents(stream, model.latents_of(frames), seed=seeds.derive(seed, "rollout", index))
    pixels, stream = model.decode(stream, latents)
    stream = jax.block_until_ready(model.extend_latents(stream, latents))  # so that its time is this chunk's
    yield pixels[0]
