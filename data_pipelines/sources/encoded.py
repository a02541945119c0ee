"""A dataset's clips as latents that were computed before, so that no training step runs the autoencoder.

Each record is one sample of a clip as a stage would take it: cropped, padded, its cameras in one picture. Labels and
texts stay whole, so that all else of a sample is found in it as in the clip itself.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float16, UInt8

from data_pipelines.records import Clip, Encoding, Latents
from data_pipelines.sampling import Crop, Window, first_frame
from data_pipelines.source import Source
from data_pipelines.sources.episode import LeftOut, Report
from kairos_jax.errors import KairosError

Encode = Callable[[UInt8[np.ndarray, "B T H W 3"]], Float16[np.ndarray, "B N h w C"]]


@dataclasses.dataclass(frozen=True)
class Encoded:
  """The records of a source, encoded; `build` reads it part by part.

  Attributes:
    name: of the dataset.
    source: of clips with pictures.
    window: the shapes of the stage's samples, of one size of picture.
    made_by: content hash of the autoencoder.
    encode: videos to latents; batches of fewer than `batch` samples are filled up.
    batch: samples that are encoded at once.
    per_part: records of a shard.
    crop, samples: where the samples of a clip begin, and how many there are of each: of a clip that is cropped at its
      start, one.
    seed: of the crops.

  Raises:
    KairosError: more samples than one of each clip's start, or no size of picture.
  """

  name: str
  source: Source
  window: Window
  made_by: str
  encode: Encode
  batch: int
  per_part: int
  crop: Crop
  samples: int
  seed: int

  def __post_init__(self):
    """Holds the numbers to what is allowed."""
    if self.samples < 1 or self.crop == "start" and self.samples > 1:
      raise KairosError(f"{self.samples} samples of each clip at crop {self.crop!r}: at a clip's start there is one")
    if self.window.picture_size is None:
      raise KairosError("latents need one size of picture")

  @property
  def parts(self) -> Sequence[range]:
    """Runs of records."""
    whole = range(len(self.source))
    return [whole[begin : begin + self.per_part] for begin in whole[:: self.per_part]]

  def clips(self, part: range, report: Report) -> Iterator[Clip]:
    """The samples of these records, those of one clip in a row."""
    waiting: list[tuple[Clip, int, UInt8[np.ndarray, "T H W 3"]]] = []
    for index in part:
      if (record := self.source[index]) is None:
        report.leave_out(f"{self.name} {index}", LeftOut("a hole of the dataset"))
        continue
      report.episodes += 1
      for start in self._starts(index, record.clip):
        video = self.window.sample(record.clip, start)["video"]
        waiting.append((record.clip, start, np.asarray(video)))
      while len(waiting) >= self.batch:
        yield from self._encoded(waiting[: self.batch], report)
        del waiting[: self.batch]
    yield from self._encoded(waiting, report)

  def _starts(self, index: int, clip: Clip) -> list[int]:
    """Spread over what the crop may draw."""
    moments = (np.arange(self.samples) + np.random.default_rng([self.seed, index]).random(self.samples)) / self.samples
    return [first_frame(self.crop, clip.frames, self.window.starts(clip), moment) for moment in moments]

  def _encoded(self, samples: list[tuple[Clip, int, UInt8[np.ndarray, "T H W 3"]]], report: Report) -> Iterator[Clip]:
    """At most a batch of samples; one compiled shape."""
    if not samples:
      return
    videos = np.stack([video for _, _, video in samples])
    filled = np.pad(videos, [(0, self.batch - len(videos)), *[(0, 0)] * 4])
    height, width = videos.shape[2:4]
    encoding = Encoding(self.made_by, float(self.window.video_fps), self.window.frames, height, width)
    for (clip, start, _), values in zip(samples, self.encode(filled), strict=False):
      report.clips += 1
      yield dataclasses.replace(clip, cameras={}, latents=Latents(np.asarray(values), start, clip.frames, encoding))
