"""Imagining without end: a video that is streamed segment after segment, and what each segment costs."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8

from kairos_jax import seeds
from kairos_jax.errors import KairosError
from kairos_jax.interfaces import num_frames
from kairos_jax.model.memory import require_constant_size
from kairos_jax.resident import resident_bytes
from kairos_jax.runtime.stream import Stream
from kairos_jax.runtime.world_model import WorldModel

WARM_UP = 5  # segments until compiled code, allocator and video encoder have taken their memory


class Cost(NamedTuple):
  """What one segment cost: its wall time, and the process's resident memory after it."""

  segment: int
  imagined_seconds: float  # of video so far, this segment included
  seconds: float
  resident_bytes: int


class Summary(NamedTuple):
  """Whether cost stayed constant. Quarters are of the run without its first segment, which compiles."""

  first_quarter: float  # median seconds a segment
  last_quarter: float
  settled_bytes: int  # after WARM_UP segments
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
  segment: int,
  seed: int = 0,
) -> Iterator[UInt8[np.ndarray, "{segment} H W 3"]]:
  """Streams the video that follows `first_frames`; each segment is imagined, then becomes history of the next.

  Args:
    model: with a memory of constant size.
    first_frames: the codec's first ones and whole latents' worth more.
    instruction: of the episode.
    frames: how many to imagine; rounded up to whole segments.
    segment: frames imagined at once, a whole number of latents' worth.
    seed: of the noise; the same one gives the same video.

  Raises:
    KairosError: the model's memory grows with the video, or a number of frames is not allowed.
  """
  require_constant_size(model.saved.model_config)
  if frames < 1:
    raise KairosError(f"rollout: {frames} frames asked for; at least 1")
  model.latents_of(segment)
  videos = segments(model, model.prefill(first_frames, instruction), -(-frames // segment), segment, seed)
  return (video[0] for video in videos)


def segments(
  model: WorldModel,
  stream: Stream,
  count: int,
  frames: int,
  seed: int,
  guidance: float = 1.0,
  negative: Stream | None = None,
) -> Iterator[UInt8[np.ndarray, "B {frames} H W 3"]]:
  """Continues a batch of streams; each segment is imagined, then becomes history of the next.

  Args:
    model: of the streams.
    stream: where they are now.
    count: of segments.
    frames: of each segment.
    seed: of the noise.
    guidance, negative: see `WorldModel.imagine`.
  """
  latents_each = model.latents_of(frames)
  for index in range(count):
    own = seeds.derive(seed, "rollout", index)
    latents = model.imagine_latents(stream, latents_each, seed=own, guidance=guidance, negative=negative)
    pixels, stream = model.decode(stream, latents)
    if negative is not None:
      negative = model.extend_latents(negative, latents)
    stream = jax.block_until_ready(model.extend_latents(stream, latents))  # so that its time is this segment's
    yield pixels


def timed(
  segments: Iterable[UInt8[np.ndarray, "T H W 3"]],
  fps: float,
  clock: Callable[[], float] = time.perf_counter,
  memory: Callable[[], int] = resident_bytes,
) -> Iterator[tuple[UInt8[np.ndarray, "T H W 3"], Cost]]:
  """Each segment with what it cost to produce; the time its consumer takes does not count."""
  iterator, count, frames = iter(segments), 0, 0
  while True:
    start = clock()
    pixels = next(iterator, None)
    if pixels is None:
      return
    seconds = clock() - start
    count, frames = count + 1, frames + len(pixels)
    yield pixels, Cost(count, frames / fps, seconds, memory())


def summarize(costs: Sequence[Cost]) -> Summary:
  """Compares the end of a run of at least one segment with its beginning."""
  compiled = costs[1:] or costs
  quarter = max(1, len(compiled) // 4)
  first, last = (statistics.median(c.seconds for c in part) for part in (compiled[:quarter], compiled[-quarter:]))
  settled = costs[min(WARM_UP, len(costs)) - 1]
  return Summary(first, last, settled.resident_bytes, costs[-1].resident_bytes)


def samples(
  model: WorldModel,
  seen: UInt8[np.ndarray, "P S H W 3"],
  instructions: Sequence[str],
  frames: int,
  count: int,
  seed: int,
  guidance: float = 1.0,
) -> UInt8[np.ndarray, "P N T H W 3"]:
  """Continues each prompt `count` times by so many frames, each latent's worth history of the next.

  Guidance leads away from what comes without words.
  """
  first = np.repeat(seen, count, axis=0)
  stream = model.prefill(first, [text for text in instructions for _ in range(count)])
  negative = None if guidance == 1.0 else model.prefill(first, "")
  step = num_frames(model.codec, 1, begins=False)
  made = list(segments(model, stream, frames // step, step, seed, guidance, negative))
  videos = np.concatenate(made, axis=1)
  return videos.reshape(len(seen), count, *videos.shape[1:])
