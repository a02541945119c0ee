"""From a stage's definition to its buckets: which records of which sources fill each, and how often it is drawn."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Int32

from data_pipelines import embodiments
from data_pipelines.curriculum.buckets import Bucket, Shapes, assign, frames_of
from data_pipelines.curriculum.schedule import Mixture
from data_pipelines.index import Index
from data_pipelines.sampling import Window
from data_pipelines.source import Source
from kairos_jax.errors import KairosError

Filters = Mapping[str, tuple[float, float]]
Records = range | Int32[np.ndarray, "R"]


@dataclasses.dataclass(frozen=True)
class Stream:
  """Records of one source that go to one bucket, and their share of the stage's samples at its two ends."""

  source: str
  records: Records
  start: float
  end: float


def plan(
  sources: Mapping[str, Source], mixture: Mixture, shapes: Shapes, filters: Filters, window: Window
) -> dict[Bucket, list[Stream]]:
  """The buckets of a stage, sorted, each with its streams.

  What is held is a number for each record of a source with several buckets or with filters, and nothing else.

  Args:
    sources: by name; the mixture's, at least.
    mixture: weights of the sources over the stage.
    shapes: that batches may have.
    filters: least and most of "seconds" or of a score of the curation; a clip of which it was not measured is kept.
    window: whose rate, and whose embodiments, the samples have.

  Raises:
    KairosError: a filter is unknown, no clip of a source is left, or image sources have no weight though there is an
      image share.
  """
  images = {name for name in mixture.names if all(c.frames[1] == 1 for c in sources[name].contents.values())}
  if not shapes.image_share:
    images = set()
  elif max(shapes.lengths) == 1 and shapes.image_share < 1:
    raise KairosError(
      f"image_share is {shapes.image_share} and frames are 1: 0 or 1 is allowed, all samples are images"
    )
  buckets: dict[Bucket, list[Stream]] = {}
  filtered: set[str] = set()
  for name, (start, end), single in _parts(mixture, images, shapes.image_share):
    found = _sorted(sources[name], shapes, filters, window, single, filtered)
    total = sum(len(records) for records in found.values())
    if not total:
      raise KairosError(
        f"no clip of source {name!r} passes the stage: filters {dict(filters)}, frames {sorted(shapes.lengths)}"
      )
    for bucket, records in found.items():
      share = len(records) / total
      buckets.setdefault(bucket, []).append(Stream(name, records, start * share, end * share))
  if unknown := {key for key in filters if key != "seconds"} - filtered:
    raise KairosError(f"filter {sorted(unknown)[0]!r} is unknown: seconds, and the scores that curation has measured")
  return dict(sorted(buckets.items()))


def _parts(mixture: Mixture, images: set[str], image_share: float) -> list[tuple[str, tuple[float, float], bool]]:
  """Each source, its share at both ends, and whether its clips are taken as single frames."""
  shares = dict(zip(mixture.names, zip(*mixture.shares(), strict=True), strict=True))
  if images and image_share < 1 and images == set(shares):
    raise KairosError(f"image_share is {image_share}: the mixture has images alone, {', '.join(sorted(images))}")
  if not images:
    return [
      (name, (part * start, part * end), single)
      for single, part in ((False, 1 - image_share), (True, image_share))
      if part
      for name, (start, end) in shares.items()
    ]
  out = []
  for single, part in ((False, 1 - image_share), (True, image_share)):
    group = {name: ends for name, ends in shares.items() if (name in images) == single}
    totals = [sum(ends[i] for ends in group.values()) for i in (0, 1)]
    if part and min(totals) == 0:
      kind = "image" if single else "video"
      raise KairosError(f"image_share is {image_share}: the mixture's {kind} sources have no weight at one of its ends")
    out += [(name, (part * s / totals[0], part * e / totals[1]), single) for name, (s, e) in group.items() if part]
  return out


def _sorted(
  source: Source, shapes: Shapes, filters: Filters, window: Window, single: bool, filtered: set[str]
) -> dict[Bucket, Records]:
  """The records of a source by bucket; adds to `filtered` the filters that it could follow."""
  lengths = [1] if single else sorted(length for length in shapes.lengths if length > 1 or not shapes.image_share)
  sizes = {}
  for name, contents in source.contents.items():
    embodiment = window.embodiment(contents.embodiment)
    size = shapes.picture(embodiment, contents)
    sizes[name] = size, 1.0 if contents.encoding else embodiments.filled(embodiment, contents.cameras, size)
  if not filters and len(lengths) == 1 and len({size for size, _ in sizes.values()}) == 1:
    (height, width), _ = next(iter(sizes.values()))
    return {Bucket(lengths[0], height, width): range(len(source))}

  index = source.index()
  filtered |= set(filters) & {"seconds", *index.scores}
  kept, frames = _kept(index, filters), frames_of(index.seconds, window.video_fps)
  found: dict[Bucket, list[np.ndarray]] = {}
  for number, name in enumerate(index.names):
    (height, width), fill = sizes[name]
    mine = np.flatnonzero(kept & (index.source == number))
    of = assign(frames[mine], lengths, fill)
    for length in np.unique(of[of > 0]):
      found.setdefault(Bucket(int(length), height, width), []).append(mine[of == length].astype(np.int32))
  return {bucket: np.sort(np.concatenate(parts)) for bucket, parts in found.items()}


def _kept(index: Index, filters: Filters) -> Bool[np.ndarray, "R"]:
  kept = np.ones(len(index), bool)
  for name, (least, most) in filters.items():
    values = index.seconds if name == "seconds" else index.scores.get(name)
    if values is not None:
      kept &= ~((values < least) | (values > most))
  return kept
