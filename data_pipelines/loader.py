"""From sources to batches: a deterministic, resumable grain stream of one stage of the curriculum."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import grain
import numpy as np
from absl import logging
from jaxtyping import PyTree

from data_pipelines.curriculum.buckets import Bucket, Shapes
from data_pipelines.curriculum.permutation import Permutation
from data_pipelines.curriculum.plan import Filters, Records, Stream, plan
from data_pipelines.curriculum.schedule import Mixture, Schedule, linear
from data_pipelines.normalize import EmbodimentNormalizer
from data_pipelines.records import Encoding
from data_pipelines.sampling import Crop, Sample, Window, first_frame
from data_pipelines.source import Record, Source
from kairos_jax.errors import KairosError
from kairos_jax.seeds import derive

_LARGE = 2**20  # bytes of a sample's video
_READ_AHEAD = 2**30  # bytes of samples that wait in all buckets together, at most; one sample waits in any case
Tokenize = Callable[[str], PyTree[np.ndarray]]


def make_loader(
  sources: Mapping[str, Source],
  mixture: Mixture,
  *,
  batch_size: int,
  shapes: Shapes,
  video_fps: float,
  seed: int,
  tokenize: Tokenize,
  steps: int,
  crop: Crop,
  instruction_share: tuple[float, float],
  state_dim: int,
  action_dim: int,
  normalizers: Mapping[str, EmbodimentNormalizer],
  filters: Filters = {},  # noqa: B006
  process_index: int = 0,
  process_count: int = 1,
) -> grain.DatasetIterator[dict[str, Any]]:
  """An endless iterator of batches whose mixture moves over `steps` batches and then stays.

  Each batch is of one bucket, so that a compiled step sees few shapes; in step s all processes have the same one. All
  depends on the seed alone: a restored `get_state` goes on exactly as if it had not stopped, and the samples of
  `process_count` processes are, together, those of one. Each source is shuffled anew every epoch. A hole of a source is
  passed over: the stream is then the whole one without those samples.

  Args:
    sources: datasets by name.
    mixture: weights of the sources over the stage.
    batch_size: samples in this process's batches, B.
    shapes: the buckets that batches may have. T frames, and N actions at the clip's own rate from the first frame on;
      a shorter clip is padded with its last frame.
    video_fps: Hz, of a sample's frames; they are found by time in clips of any rate.
    seed: of shuffling, mixing, cropping and the choice of texts, each with a seed of its own derived from it.
    tokenize: a text to a pytree of arrays of fixed shapes.
    steps: batches of the stage.
    crop: where a sample starts in a longer clip: at its start; at random, so that it is filled; or half of the time at
      the start and else anywhere, the end being padded: a robot then learns to begin in the middle of a task.
      Latents have been cropped when they were made.
    instruction_share: of samples told by their instruction (or a paraphrase of it) instead of their caption, at the
      start and the end.
    state_dim, action_dim: S and A of the batches; an embodiment that has fewer is padded and masked.
    normalizers: by embodiment; a clip of an embodiment without one has no labels.
    filters: what a clip's seconds or scores must be, see `curriculum.plan`.
    process_index, process_count: this process's share of the samples: of each batch its rows, which are neighbors.

  Returns:
    A grain iterator (`get_state`, `set_state`, grain.checkpoint) of numpy dictionaries: video uint8 [B, T, H, W, 3]
    (or latents float16 [B, n, h, w, C], where the sources hold them), length int32 [B] (valid frames), tokens (what
    `tokenize` gives, with a leading B), state float32 [B, T, S], state_mask bool [B, T, S], action float32 [B, N, A],
    action_mask bool [B, N, A], executed float32 [B, N, A] (the actions, where nothing else is known to have been done),
    action_hz float32 [B], fps float32 [B], embodiment int32 [B] (index into the sorted `normalizers`, -1 if it has
    none), source int32 [B] (index into the sorted names of `sources`), id str [B]. All three are normalized.

  Raises:
    KairosError: the mixture names an unknown source, a number is out of range, pictures differ in size, an embodiment
      does not fit the model's width, a labeled one has no normalizer, or no clip of a source fits the stage.
  """
  if min(batch_size, steps) < 1:
    raise KairosError(f"batch_size {batch_size} and steps {steps} must be at least 1")
  if not (np.isfinite(video_fps) and video_fps > 0):
    raise KairosError(f"video_fps is {video_fps}: a positive number of Hz is required")
  if not 0 <= process_index < process_count:
    raise KairosError(f"process_index {process_index} is out of range: 0 to {process_count - 1}")
  if unknown := set(mixture.names) - set(sources):
    raise KairosError(f"mixture names unknown sources {sorted(unknown)}: there are {sorted(sources)}")
  if crop not in get_args(Crop):
    raise KairosError(f"unknown crop {crop!r}: {', '.join(get_args(Crop))}")
  window = Window(max(shapes.lengths), video_fps, 0, state_dim, action_dim, None, dict(normalizers))
  used = {name: sources[name] for name in mixture.names}
  _check(window, used, shapes)

  order, draws = sorted(sources), batch_size * steps * process_count
  planned = plan(used, mixture, shapes, filters, window)
  batches = []
  for bucket, streams in planned.items():
    actions = shapes.lengths.get(bucket.frames, 0)
    bucket_window = dataclasses.replace(window, frames=bucket.frames, action_steps=actions, picture_size=bucket[1:])
    start, end = (np.array([getattr(stream, name) for stream in streams]) for name in ("start", "end"))
    schedule = Schedule(start, end, draws, derive(seed, "mixture", *bucket))
    endless = []
    for stream in streams:
      shuffled = _Endless(sources[stream.source], stream.records, derive(seed, "shuffle", stream.source, *bucket))
      endless.append(grain.MapDataset.source(shuffled).map(functools.partial(_Draw, order.index(stream.source))))
    sampler = _Sampler(bucket_window, schedule, derive(seed, "samples", *bucket), tokenize, crop, instruction_share)
    samples = grain.MapDataset.select_from_datasets(endless, schedule).map_with_index(sampler)
    share = Share(samples, batch_size, process_index, process_count)
    samples = share.to_iter_dataset(_reading(bucket, batch_size, len(planned)))
    batches.append(samples.batch(batch_size, drop_remainder=True))
  _log(planned)
  start, end = (
    np.array([sum(getattr(stream, name) for stream in streams) for streams in planned.values()])
    for name in ("start", "end")
  )
  return iter(Steps(batches, Schedule(start, end, steps, derive(seed, "buckets")), process_count))


def _reading(bucket: Bucket, batch_size: int, buckets: int) -> grain.ReadOptions:
  """How a bucket's samples are read ahead."""
  size = bucket.frames * bucket.height * bucket.width * 3
  # Decompression leaves the interpreter to another thread; with small samples two threads only fight over it.
  ahead = max(1, min(2 * batch_size, _READ_AHEAD // buckets // size))
  return grain.ReadOptions(num_threads=min(2 if size >= _LARGE else 1, ahead), prefetch_buffer_size=ahead)


def _log(planned: Mapping[Bucket, Sequence[Stream]]) -> None:
  """One line a bucket, if there are several: each is a compilation."""
  for bucket, streams in planned.items() if len(planned) > 1 else ():
    ends = (100 * sum(getattr(stream, name) for stream in streams) for name in ("start", "end"))
    records = sum(len(stream.records) for stream in streams)
    logging.info("bucket %d x %d x %d: %d clips, %.1f to %.1f %% of the steps", *bucket, records, *ends)


class Share(grain.MapDataset):
  """One process's rows of each batch: `size` neighbors, so that all processes' rows in turn are those of one."""

  def __init__(self, parent: grain.MapDataset, size: int, index: int, count: int):
    super().__init__(parent)
    self._size, self._index, self._count = size, index, count

  def __len__(self) -> int:
    return len(self._parent) // self._count

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    batch, row = divmod(index, self._size)
    return self._parent[(batch * self._count + self._index) * self._size + row]


class Steps(grain.IterDataset):
  """Batches of several buckets, in the order of a schedule; a state of so many processes can be set with others."""

  def __init__(self, parents: Sequence[grain.IterDataset], schedule: Schedule, processes: int):
    super().__init__(parents)
    self._schedule, self._processes = schedule, processes

  def __iter__(self) -> grain.DatasetIterator:
    return _StepsIterator([iter(parent) for parent in self._parents], self._schedule, self._processes)


class _StepsIterator(grain.DatasetIterator):
  def __init__(self, parents: Sequence[grain.DatasetIterator], schedule: Schedule, processes: int):
    super().__init__(parents)
    self._schedule, self._processes, self._step = schedule, processes, 0

  def __next__(self) -> dict[str, Any]:
    batch = next(self._parents[self._schedule[self._step][0]])
    self._step += 1
    return batch

  def get_state(self) -> dict[str, Any]:
    buckets = [parent.get_state() for parent in self._parents]
    return {"step": self._step, "processes": self._processes, "buckets": buckets}

  def set_state(self, state: dict[str, Any]) -> None:
    self._step, processes = state["step"], state["processes"]
    for parent, mine in zip(self._parents, state["buckets"], strict=True):
      parent.set_state(mine | {"next_index": mine["next_index"] * processes // self._processes})


def _check(window: Window, sources: Mapping[str, Source], shapes: Shapes) -> None:
  """Holds to what can be known of the samples before the first is read."""
  sizes: dict[str, tuple[int, int]] = {}
  for folder, source in sources.items():
    for name, contents in source.contents.items():
      embodiment = window.embodiment(contents.embodiment)
      sizes[f"{folder}/{name}"] = shapes.picture(embodiment, contents)
      if contents.encoding:
        _check_encoding(f"{folder}/{name}", contents.encoding, window.video_fps, shapes)
      elif missing := [camera for camera in embodiment.cameras if camera not in contents.cameras]:
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
      horizon, steps = window.normalizers[embodiment.name].action.horizon, max(shapes.lengths.values())
      if horizon is not None and steps > horizon:
        raise KairosError(
          f"action_steps is {steps}: embodiment {embodiment.name!r} is normalized per step of chunks of {horizon}, "
          f"so a sample may be one chunk at most"
        )
  if len({contents.encoding is None for source in sources.values() for contents in source.contents.values()}) > 1:
    raise KairosError("some sources have latents and others pictures: a stage reads one or the other")
  if shapes.size is None and len(set(sizes.values())) > 1:
    raise KairosError(f"pictures differ in size between sources: {sizes}; a stage needs one, or a resolution")


def _check_encoding(name: str, encoding: Encoding, video_fps: float, shapes: Shapes) -> None:
  """That latents are of samples as the stage wants them."""
  asked = {"frames": sorted(shapes.lengths), "video_fps": video_fps, "image_share": shapes.image_share}
  if asked != {"frames": [encoding.frames], "video_fps": encoding.video_fps, "image_share": 0.0}:
    raise KairosError(
      f"source {name} has latents of {encoding.frames} frames at {encoding.video_fps:g} Hz and no images, "
      f"the stage asks for {asked}"
    )


class _Endless:
  """Some records of a source in a new order every epoch, which is computed record by record."""

  def __init__(self, source: Source, records: Records, seed: int):
    self._source, self._records = source, records
    # The threads that read ahead may be in two epochs at once.
    self._order = functools.lru_cache(maxsize=2)(lambda epoch: Permutation(len(records), seed, epoch))

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index: int) -> Record | None:
    epoch, place = divmod(index, len(self._records))
    return self._source[int(self._records[self._order(epoch)[place]])]


@dataclasses.dataclass(frozen=True)
class _Draw:
  """A record and the index of the source it was drawn from."""

  source: int
  record: Record


@dataclasses.dataclass(frozen=True)
class _Sampler:
  """Makes the stage's sample at an index, of the record drawn for it; all chance comes from (seed, index)."""

  window: Window
  schedule: Schedule
  seed: int
  tokenize: Tokenize
  crop: Crop
  instruction_share: tuple[float, float]

  def __call__(self, index: int, draw: _Draw) -> Sample:
    clip = draw.record.clip
    told, moment, wording = np.random.default_rng([self.seed, index]).random(3)
    instructions = (*([clip.instruction] if clip.instruction else []), *clip.paraphrases)
    instruction = instructions[int(wording * len(instructions))] if instructions else ""
    instructed = told < linear(self.instruction_share, self.schedule.moment(index))
    text = (instruction or clip.caption) if instructed else (clip.caption or instruction)
    if clip.latents:
      start = clip.latents.start
    else:
      start = first_frame(self.crop, clip.frames, self.window.starts(clip), moment)
    return {
      **self.window.sample(clip, start),
      "tokens": self.tokenize(text),
      "source": np.int32(draw.source),
      "id": np.str_(draw.record.id),
    }
