"""Clips that never enter training, so that a loss on them is one on clips that the model has not seen."""

import dataclasses
from collections.abc import Mapping

from data_pipelines.contents import Contents
from data_pipelines.index import Index
from data_pipelines.source import Record, Source
from data_pipelines.statistics import Features
from kairos_jax.errors import KairosError


@dataclasses.dataclass(frozen=True)
class Part:
  """Records `start` to `stop` of a source, as a `Source`; contents and statistics are those of the whole."""

  whole: Source
  start: int
  stop: int

  def __len__(self) -> int:
    return self.stop - self.start

  def __getitem__(self, index: int) -> Record | None:
    if not 0 <= index < len(self):
      raise IndexError(f"record {index} of {len(self)}")
    return self.whole[self.start + index]

  @property
  def contents(self) -> Mapping[str, Contents]:
    return self.whole.contents

  @property
  def statistics(self) -> Mapping[str, Features]:
    return self.whole.statistics

  def index(self) -> Index:
    return self.whole.index().part(self.start, self.stop)


def hold_out(source: Source, clips: int) -> tuple[Part, Part]:
  """A source without its last `clips` records, and these; holes keep their places in both.

  Raises:
    KairosError: the source has no more clips than these, or none of these can be read.
  """
  if not 0 < clips < len(source):
    raise KairosError(f"{clips} of {len(source)} clips cannot be held out: 1 to {len(source) - 1} can")
  training, held = Part(source, 0, len(source) - clips), Part(source, len(source) - clips, len(source))
  if all(held[i] is None for i in range(clips)):
    raise KairosError(f"none of the last {clips} clips, which are held out, can be read")
  return training, held
