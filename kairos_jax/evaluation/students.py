"""What a student of few steps lost of its teacher: its videos beside those that the teacher takes many steps for.

Every prompt is the beginning of an unseen episode. Each model imagines it several times, latent after latent as it is
streamed, so that for each prompt there are two sets of samples of what should be one distribution.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from kairos_jax import seeds
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import foresight, scene_scores
from kairos_jax.evaluation.intervals import Interval, mean_interval
from kairos_jax.interfaces import num_frames
from kairos_jax.runtime import WorldModel

MANY = 32  # steps of the teacher that its students are held against
_AT_ONCE = 8  # prompts


class Samples(NamedTuple):
  """N videos of each of P prompts, and their latents, flat."""

  videos: UInt8[np.ndarray, "P N T H W 3"]
  latents: Float[np.ndarray, "P N D"]
  seconds: float  # of a latent, of all prompts of a batch at once; the first batch, which compiles, does not count


class Row(NamedTuple):
  """What one model's samples are beside the teacher's of many steps.

  Attributes:
    name: of the model.
    energy: energy distance between the latents of a prompt, mean over prompts.
    gain: by how much it is below the teacher's own of as few steps; above 0 is better.
    motion: as a share of the teacher's.
    diversity: of one prompt's videos, likewise.
    seconds: of a latent of a batch of prompts.
  """

  name: str
  energy: Interval
  gain: Interval
  motion: float
  diversity: float
  seconds: float


def compare(
  teacher: WorldModel,
  students: Mapping[str, WorldModel],
  *,
  prompts: int,
  samples: int,
  progress: Callable[[str], None] = lambda name: None,
) -> list[Row]:
  """The teacher with other noise, the teacher with as few steps as the students take, and each student.

  Args:
    teacher: with its own steps, of which it takes `MANY`.
    students: of one number of steps, by name.
    prompts, samples: P and N; at least 2 samples.
    progress: hears whose samples are made next.

  Raises:
    KairosError: a model that is no student, students of different numbers of steps, too few samples, or see
      `foresight.unseen_clips`.
  """
  counts = {name: len(student.saved.video_times) for name, student in students.items()}
  if not counts or min(counts.values()) == 0 or len(set(counts.values())) > 1:
    raise KairosError(f"video steps of the students are {counts}; one number for all is required, 0 is no student")
  if samples < 2:
    raise KairosError(f"samples is {samples}; at least 2 are needed of each prompt")
  few = next(iter(counts.values()))
  clips, instructions = foresight.unseen_clips(teacher, prompts, seed=1)
  seen = clips[:, : num_frames(teacher.codec, foresight.SEEN)]

  def made(name: str, model: WorldModel, steps: int, seed: int) -> Samples:
    progress(name)
    return imagine(model, seen, instructions, samples, steps=steps, seed=seed)

  wanted = made(f"teacher, {MANY} steps", teacher, MANY, seed=0)
  found = {
    f"teacher, {MANY} steps, other noise": made("teacher, other noise", teacher, MANY, seed=1),
    f"teacher, {few} steps": made(f"teacher, {few} steps", teacher, few, seed=1),
  }
  found |= {name: made(name, student, few, seed=1) for name, student in students.items()}
  energies = {name: energy_distance(one.latents, wanted.latents) for name, one in found.items()}
  hasty = energies[f"teacher, {few} steps"]
  return [
    Row(
      name,
      mean_interval(energies[name]),
      mean_interval(hasty - energies[name]),
      _motion(one) / _motion(wanted),
      _diversity(one) / _diversity(wanted),
      one.seconds,
    )
    for name, one in found.items()
  ]


def imagine(
  model: WorldModel,
  seen: UInt8[np.ndarray, "P S H W 3"],
  instructions: Sequence[str],
  samples: int,
  *,
  steps: int,
  seed: int,
) -> Samples:
  """Continues each prompt `samples` times by `foresight.FUTURE` latents, each history of the next."""
  videos, latents, seconds = [], [], []
  for first in range(0, len(seen), _AT_ONCE):
    chunk = slice(first, first + _AT_ONCE)
    texts = [text for text in instructions[chunk] for _ in range(samples)]
    stream = model.prefill(np.repeat(seen[chunk], samples, axis=0), texts)
    shown, told = [], []
    begin = time.perf_counter()
    for step in range(foresight.FUTURE):
      new = model.imagine_latents(stream, 1, steps=steps, seed=seeds.derive(seed, first, step))
      told.append(np.asarray(new, np.float64))
      frames, stream = model.decode(stream, new)
      shown.append(frames)
      stream = model.extend_latents(stream, new)
    if first:
      seconds.append((time.perf_counter() - begin) / foresight.FUTURE)
    count = len(seen[chunk])
    videos.append(np.concatenate(shown, axis=1).reshape(count, samples, -1, *seen.shape[2:]))
    latents.append(np.concatenate(told, axis=1).reshape(count, samples, -1))
  return Samples(np.concatenate(videos), np.concatenate(latents), float(np.mean(seconds)) if seconds else np.nan)


def energy_distance(x: Float[np.ndarray, "P N D"], y: Float[np.ndarray, "P M D"]) -> Float[np.ndarray, "P"]:
  """2 E|x - y| - E|x - x'| - E|y - y'| for each prompt, without bias: 0 in the mean where both are of one distribution.

  Source: Szekely and Rizzo, Energy statistics (2013).
  """
  return 2 * _apart(x, y).mean(axis=(1, 2)) - _among(x) - _among(y)


def _apart(x: Float[np.ndarray, "P N D"], y: Float[np.ndarray, "P M D"]) -> Float[np.ndarray, "P N M"]:
  return np.linalg.norm(x[:, :, None] - y[:, None], axis=-1)


def _among(x: Float[np.ndarray, "P N D"]) -> Float[np.ndarray, "P"]:
  """The mean distance of two different samples."""
  count = x.shape[1]
  return _apart(x, x).sum(axis=(1, 2)) / (count * (count - 1))


def _motion(samples: Samples) -> float:
  return float(np.mean([scene_scores.motion(video) for videos in samples.videos for video in videos]))


def _diversity(samples: Samples) -> float:
  return float(np.mean([scene_scores.diversity(videos) for videos in samples.videos]))
