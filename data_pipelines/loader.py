"""From sources to batches: a deterministic, resumable grain stream of one stage of the curriculum."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import grain
import numpy as np
from jaxtyping import PyTree

from data_pipelines import embodiments
from data_pipelines.curriculum import Curriculum, Mixture, linear
from data_pipelines.normalize import EmbodimentNormalizer
from data_pipelines.sampling import Sample, Window
from data_pipelines.source import Record, Source
from kairos_jax.errors import KairosError
from kairos_jax.seeds import derive

Crop = Literal["start", "random", "anywhere"]
_LARGE = 2**20  # bytes of a sample's video
Tokenize = Callable[[str], PyTree[np.ndarray]]


def make_loader(
  sources: Mapping[str, Source],
  mixture: Mixture,
  *,
  batch_size: int,
  frames: int,
  video_fps: float,
  seed: int,
  tokenize: Tokenize,
  steps: int,
  crop: Crop,
  instruction_share: tuple[float, float],
  state_dim: int,
  action_dim: int,
  action_steps: int,
  normalizers: Mapping[str, EmbodimentNormalizer],
  picture_size: tuple[int, int] | None = None,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.DatasetIterator[dict[str, Any]]:
  """An endless iterator of batches whose mixture moves over `steps` batches and then stays.

  All depends on the seed alone: a restored `get_state` goes on exactly as if it had not stopped, and the samples of
  `process_count` processes are, together, those of one. Each source is shuffled anew every epoch. A hole of a source is
  passed over: the stream is then the whole one without those samples.

  Args:
    sources: datasets by name.
    mixture: weights of the sources over the stage.
    batch_size: samples in this process's batches, B.
    frames: of a sample, T; a shorter clip is padded with its last frame.
    video_fps: Hz, of a sample's frames; they are found by time in clips of any rate.
    seed: of shuffling, mixing, cropping and the choice of texts, each with a seed of its own derived from it.
    tokenize: a text to a pytree of arrays of fixed shapes.
    steps: batches of the stage.
    crop: where a sample starts in a longer clip: at its start; at random, so that it is filled; or half of the time at
      the start and else anywhere, the end being padded: a robot then learns to begin in the middle of a task.
    instruction_share: of samples told by their instruction (or a paraphrase of it) instead of their caption, at the
      start and the end.
    state_dim, action_dim: S and A of the batches; an embodiment that has fewer is padded and masked.
    action_steps: N, actions of a sample at its clip's own rate, from its first frame on.
    normalizers: by embodiment; a clip of an embodiment without one has no labels.
    picture_size: height and width, for embodiments whose own pictures differ; None is their own.
    process_index, process_count: this process's share of the samples: every `process_count`-th.

  Returns:
    A grain iterator (`get_state`, `set_state`, grain.checkpoint) of numpy dictionaries: video uint8 [B, T, H, W, 3],
    length int32 [B] (valid frames), tokens (what `tokenize` gives, with a leading B), state float32 [B, T, S],
    state_mask bool [B, T, S], action float32 [B, N, A], action_mask bool [B, N, A], action_hz float32 [B], fps float32
    [B], embodiment int32 [B] (index into the sorted `normalizers`, -1 if it has none), source int32 [B] (index into
    the sorted names of `sources`), id str [B]. States and actions are normalized.

  Raises:
    KairosError: the mixture names an unknown source, a number is out of range, pictures differ in size, an embodiment
      does not fit the model's width, or a labeled one has no normalizer.
  """
  if min(batch_size, frames, steps) < 1 or action_steps < 0:
    raise KairosError(
      f"batch_size {batch_size}, frames {frames} and steps {steps} must be at least 1, action_steps {action_steps} 0"
    )
  if not (np.isfinite(video_fps) and video_fps > 0):
    raise KairosError(f"video_fps is {video_fps}: a positive number of Hz is required")
  if not 0 <= process_index < process_count:
    raise KairosError(f"process_index {process_index} is out of range: 0 to {process_count - 1}")
  if unknown := set(mixture.names) - set(sources):
    raise KairosError(f"mixture names unknown sources {sorted(unknown)}: there are {sorted(sources)}")
  if crop not in get_args(Crop):
    raise KairosError(f"unknown crop {crop!r}: {', '.join(get_args(Crop))}")
  window = Window(frames, video_fps, action_steps, state_dim, action_dim, picture_size, dict(normalizers))
  height, width = _check(window, {name: sources[name] for name in mixture.names})

  samples = batch_size * steps * process_count
  order = sorted(sources)
  streams = []
  for name in mixture.names:
    endless = grain.MapDataset.source(_Endless(sources[name], derive(seed, "shuffle", name)))
    streams.append(endless.map(functools.partial(_Draw, order.index(name))))
  sampler = _Sampler(window, samples, derive(seed, "samples"), tokenize, crop, instruction_share)
  mixed = grain.MapDataset.select_from_datasets(streams, Curriculum(mixture, samples, derive(seed, "mixture")))
  mine = mixed.map_with_index(sampler)[process_index::process_count]
  # Decompression leaves the interpreter to another thread; with small samples two threads only fight over it.
  threads = 2 if frames * height * width * 3 >= _LARGE else 1
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * batch_size)
  return iter(mine.to_iter_dataset(options).batch(batch_size, drop_remainder=True))


def _check(window: Window, sources: Mapping[str, Source]) -> tuple[int, int]:
  """Holds to what can be known of the samples before the first is read; the height and width of their pictures."""
  sizes: dict[str, tuple[int, int]] = {}
  for folder, source in sources.items():
    for name, contents in source.contents.items():
      embodiment = window.embodiment(contents.embodiment)
      sizes[f"{folder}/{name}"] = window.picture_size or embodiments.picture_size(embodiment, contents.cameras)
      if missing := [camera for camera in embodiment.cameras if camera not in contents.cameras]:
        raise KairosError(
          f"source {name!r} lacks camera {missing[0]!r} of embodiment {embodiment.name!r}: it has "
          f"{', '.join(contents.cameras)}"
        )
      if not contents.labeled:
        continue
      if embodiment.name not in window.normalizers:
        raise KairosError(
          f"source {name!r} has labels of embodiment {embodiment.name!r}, which has no normalizer: there are "
          f"{', '.join(sorted(window.normalizers)) or 'none'}"
        )
      for feature, dim, width in (
        ("state", contents.state_dim, window.state_dim),
        ("action", contents.action_dim, window.action_dim),
      ):
        if dim not in (0, len(getattr(embodiment, feature))):
          raise KairosError(
            f"source {name!r} has {dim} {feature} dimensions, embodiment {embodiment.name!r} "
            f"{len(getattr(embodiment, feature))}"
          )
        if dim > width:
          raise KairosError(f"{feature}_dim is {width}: source {name!r} has {dim}")
      horizon = window.normalizers[embodiment.name].action.horizon
      if horizon is not None and window.action_steps > horizon:
        raise KairosError(
          f"action_steps is {window.action_steps}: embodiment {embodiment.name!r} is normalized per step of chunks of "
          f"{horizon}, so a sample may be one chunk at most"
        )
  if len(set(sizes.values())) > 1:
    raise KairosError(f"pictures differ in size between sources: {sizes}; a batch needs one, or a picture_size")
  return next(iter(sizes.values()))


class _Endless:
  """A source in a new order every epoch.

  One order is in memory, 8 bytes a record. The shuffle of grain needs none, but takes 125 us a record of a small
  source, a quarter of the time of a whole sample.
  """

  def __init__(self, source: Source, seed: int):
    self._source = source
    # The threads that read ahead may be in two epochs at once.
    self._order = functools.lru_cache(maxsize=2)(
      lambda epoch: np.random.default_rng([seed, epoch]).permutation(len(source))
    )

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index: int) -> Record | None:
    epoch, place = divmod(index, len(self._source))
    return self._source[int(self._order(epoch)[place])]


@dataclasses.dataclass(frozen=True)
class _Draw:
  """A record and the index of the source it was drawn from."""

  source: int
  record: Record


@dataclasses.dataclass(frozen=True)
class _Sampler:
  """Makes the stage's sample at an index, of the record drawn for it; all chance comes from (seed, index)."""

  window: Window
  samples: int
  seed: int
  tokenize: Tokenize
  crop: str
  instruction_share: tuple[float, float]

  def __call__(self, index: int, draw: _Draw) -> Sample:
    clip = draw.record.clip
    told, moment, wording = np.random.default_rng([self.seed, index]).random(3)
    instructions = (*([clip.instruction] if clip.instruction else []), *clip.paraphrases)
    instruction = instructions[int(wording * len(instructions))] if instructions else ""
    instructed = told < linear(self.instruction_share, index, self.samples)
    text = (instruction or clip.caption) if instructed else (clip.caption or instruction)
    return {
      **self.window.sample(clip, self._start(clip.frames, self.window.starts(clip), moment)),
      "tokens": self.tokenize(text),
      "source": np.int32(draw.source),
      "id": np.str_(draw.record.id),
    }

  def _start(self, length: int, starts: int, moment: float) -> int:
    """The first frame of a sample, from a uniform number."""
    match self.crop:
      case "random":
        return int(moment * starts)
      case "anywhere":
        return int(max(2 * moment - 1, 0) * (length - 1))
      case _:
        return 0
