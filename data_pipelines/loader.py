"""From datasets on disk to batches: a deterministic, resumable grain stream of one stage of the curriculum."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

import grain
import numpy as np
from jaxtyping import Int32

from data_pipelines.curriculum import Curriculum, Mixture, linear
from data_pipelines.reader import ReadReport, Record, read
from data_pipelines.records import Clip
from data_pipelines.shards import read_manifest
from kairos_jax.errors import KairosError

Crop = Literal["start", "random", "anywhere"]
Tokenize = Callable[[str], Int32[np.ndarray, "N"]]
Sample = dict[str, np.ndarray | np.generic]


def make_loader(
  sources: Mapping[str, str | Path],
  mixture: Mixture,
  *,
  batch_size: int,
  frames: int,
  seed: int,
  tokenize: Tokenize,
  steps: int,
  crop: Crop,
  instruction_share: tuple[float, float],
  state_dim: int,
  action_dim: int,
  process_index: int = 0,
  process_count: int = 1,
  report: ReadReport | None = None,
) -> grain.DatasetIterator[dict[str, np.ndarray]]:
  """An endless iterator of batches whose mixture moves over `steps` batches and then stays.

  All depends on the seed alone: a restored `get_state` goes on exactly as if it had not stopped, and the samples of
  `process_count` processes are, together, those of one. Each source is shuffled anew every epoch.

  Args:
    sources: dataset folders by name.
    mixture: weights of the sources over the stage.
    batch_size: samples in this process's batches, B.
    frames: of a sample, T; a shorter clip is padded with its last frame.
    seed: of shuffling, mixing, cropping and the choice of captions.
    tokenize: a caption to int32 token ids of one fixed length N.
    steps: batches of the stage.
    crop: where a sample starts in a longer clip: at its start; at random, so that it is filled; or half of the time at
      the start and else anywhere, the end being padded: a robot then learns to begin in the middle of a task.
    instruction_share: of samples told by their instruction instead of their caption, at the start and the end.
    state_dim, action_dim: S and A of the batches; a source with others is zero-filled and masked out.
    process_index, process_count: this process's share of the samples: every `process_count`-th.
    report: counts what had to be left out.

  Returns:
    A grain iterator (`get_state`, `set_state`, grain.checkpoint) of numpy dictionaries: video uint8 [B, T, H, W, 3],
    length int32 [B] (valid frames), tokens int32 [B, N], state float32 [B, T, S], state_mask bool [B, T],
    action float32 [B, T-1, A], action_mask bool [B, T-1], fps float32 [B], source int32 [B] (index into the sorted
    names of `sources`), id str [B].

  Raises:
    KairosError: the mixture names an unknown source, a dataset cannot be read, or a count is out of range.
  """
  if min(batch_size, frames, steps) < 1:
    raise KairosError(f"batch_size {batch_size}, frames {frames} and steps {steps} must be at least 1")
  if not 0 <= process_index < process_count:
    raise KairosError(f"process_index {process_index} is out of range: 0 to {process_count - 1}")
  if unknown := set(mixture.names) - set(sources):
    raise KairosError(f"mixture names unknown sources {sorted(unknown)}: there are {sorted(sources)}")
  if crop not in get_args(Crop):
    raise KairosError(f"unknown crop {crop!r}: {', '.join(get_args(Crop))}")

  sizes = {
    name: tuple(source["shapes"]["frame"])
    for name in mixture.names
    for source in read_manifest(sources[name])["sources"].values()
  }
  if len(set(sizes.values())) > 1:
    raise KairosError(f"frame sizes differ between sources: {sizes}; a batch needs one")

  report = report or ReadReport()
  samples = batch_size * steps * process_count
  streams = []
  for name in mixture.names:
    source = sorted(sources).index(name)
    shuffle_seed = int(np.random.default_rng([seed, source]).integers(2**31))
    stream = read(sources[name], report).map(functools.partial(_Draw, source))
    streams.append(stream.shuffle(seed=shuffle_seed).repeat())
  sampler = _Sampler(samples, frames, seed, tokenize, crop, instruction_share, state_dim, action_dim)
  mixed = grain.MapDataset.select_from_datasets(streams, Curriculum(mixture, samples, seed))
  mine = mixed.map_with_index(sampler)[process_index::process_count]
  options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2 * batch_size)
  return iter(mine.to_iter_dataset(options).batch(batch_size, drop_remainder=True))


@dataclasses.dataclass(frozen=True)
class _Draw:
  """A record and the index of the source it was drawn from."""

  source: int
  record: Record


@dataclasses.dataclass(frozen=True)
class _Sampler:
  """Makes the stage's sample at an index, of the record drawn for it; all chance comes from (seed, index)."""

  samples: int
  frames: int
  seed: int
  tokenize: Tokenize
  crop: str
  instruction_share: tuple[float, float]
  state_dim: int
  action_dim: int

  def __call__(self, index: int, draw: _Draw) -> Sample:
    clip = draw.record.clip
    rng = np.random.default_rng([self.seed, index])
    told, moment = rng.random(2)
    instructed = told < linear(self.instruction_share, index, self.samples)
    text = (clip.instruction or clip.caption) if instructed else (clip.caption or clip.instruction)
    return {
      **window(clip, self._start(len(clip.video), moment), self.frames, self.state_dim, self.action_dim),
      "tokens": self.tokenize(text),
      "source": np.int32(draw.source),
      "id": np.str_(draw.record.id),
    }

  def _start(self, length: int, moment: float) -> int:
    """The first frame of a sample, from a uniform number."""
    match self.crop:
      case "random":
        return int(moment * (max(length - self.frames, 0) + 1))
      case "anywhere":
        return int(max(2 * moment - 1, 0) * (length - 1))
      case _:
        return 0


def window(clip: Clip, start: int, frames: int, state_dim: int, action_dim: int) -> Sample:
  """Frames [start, start + frames) of a clip, of fixed shapes: the video is padded with the clip's last frame.

  States and actions are 0 with a False mask in the padding, and throughout if their number of dimensions differs.
  """
  index = np.minimum(np.arange(start, start + frames), len(clip.video) - 1)
  state, state_mask = _labels(clip.state, clip.state_mask, start, frames, state_dim)
  action, action_mask = _labels(clip.action, clip.action_mask, start, frames - 1, action_dim)
  return {
    "video": clip.video[index],
    "length": np.int32(min(len(clip.video) - start, frames)),
    "state": state,
    "state_mask": state_mask,
    "action": action,
    "action_mask": action_mask,
    "fps": np.float32(clip.fps),
  }


def _labels(values: np.ndarray, mask: np.ndarray, start: int, count: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
  out, out_mask = np.zeros((count, dim), np.float32), np.zeros(count, bool)
  values, mask = values[start : start + count], mask[start : start + count]
  if values.shape[1] == dim > 0:
    out[: len(values)], out_mask[: len(mask)] = np.where(mask[:, None], values, 0), mask
  return out, out_mask
