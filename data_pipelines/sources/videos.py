"""A folder of videos, ego-centric ones too: each file whole, in clips of at most `Cut.max_seconds`.

A text file of the same name beside a video is its caption. Say embodiment=hand for videos of a person's hands.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipelines.sources import video
from data_pipelines.sources.episode import Episode, LeftOut, Origin, Span, batched, lost
from data_pipelines.sources.options import Options, inside
from kairos_jax.errors import KairosError

TAKES = ("embodiment", "hz")
_KINDS = "mp4 m4v mov mkv webm avi mpg mpeg ts mts m2ts wmv flv 3gp 3g2 ogv"
SUFFIXES = frozenset(f".{kind}" for kind in _KINDS.split())
_PER_PART = 16
_SLACK = 3  # frames that a file may hold beyond those it announces, so that they are no clip of their own


def open_reader(path: Path, options: Options) -> "VideoReader":
  """Opens one file, or all videos below a folder; links are not followed out of it.

  Raises:
    KairosError: there is none.
  """
  if path.is_file():
    return VideoReader("videos", path.parent, [(path.name, _caption(path))], options, path.stem)
  files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
  if not files:
    raise KairosError(f"{path} has no video: one of {', '.join(sorted(SUFFIXES))}")
  entries = [(str(file.relative_to(path)), _caption(file)) for file in files]
  return VideoReader("videos", path, entries, options, path.resolve().name)


class VideoReader:
  """A `Reader` of files and their captions; an entry without a path holds the reason."""

  def __init__(
    self, kind: str, root: Path, entries: Sequence[tuple[str, str] | LeftOut], options: Options, default: str
  ):
    embodiment = options.unlabeled_embodiment()
    self.origin = Origin(kind, options.name or default, options.license or "unknown", embodiment)
    self._root, self._hz = root, options.hz or None
    self.parts = batched(entries, _PER_PART)

  def episodes(self, part: Sequence[tuple[str, str] | LeftOut]) -> Iterator[Episode | LeftOut]:
    for entry in part:
      if isinstance(entry, LeftOut):
        yield entry
        continue
      name, caption = entry
      try:
        yield self._episode(name, caption)
      except (LeftOut, OSError, ValueError, RuntimeError) as error:
        yield lost(error, name, "video cannot be read")

  def _episode(self, name: str, caption: str) -> Episode:
    path = inside(self._root, name)
    described = video.describe(path)
    hz = self._hz or described.hz
    return Episode(
      name=name,
      hz=hz,
      cameras={self.origin.embodiment.cameras[0]: video.frames(path, hz)},
      spans=[Span(caption=caption, announced=round(described.seconds * hz) + _SLACK)],
      provenance={"file": name},
      variant=f"/{described.height}x{described.width}",
    )


def _caption(file: Path) -> str:
  text = file.with_suffix(".txt")
  return text.read_text(encoding="utf-8", errors="replace").strip() if text.is_file() else ""
