"""A folder of images: each is a clip of one frame.

A caption is the text file of the same name beside it, or the "text" of its line in the folder's metadata.jsonl, as
imagefolder datasets have it. A camera's note of how it was held (EXIF) is followed.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data_pipelines.sources.episode import Episode, LeftOut, Origin, Span, batched, lost
from data_pipelines.sources.options import Options, inside
from data_pipelines.sources.video import MAX_PIXELS
from kairos_jax.errors import KairosError

TAKES = ("embodiment",)
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"))
_PER_PART = 256
_HZ = 1.0  # a rate is required, but one frame has none


def open_reader(path: Path, options: Options) -> "ImageReader":
  """Opens all images below a folder.

  Raises:
    KairosError: there is none, or metadata.jsonl cannot be read.
  """
  files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
  if not files:
    raise KairosError(f"{path} has no image: one of {', '.join(sorted(SUFFIXES))}")
  return ImageReader(path, files, options)


class ImageReader:
  """A `Reader`."""

  def __init__(self, root: Path, files: Sequence[Path], options: Options):
    embodiment = options.unlabeled_embodiment()
    self.origin = Origin("images", options.name or root.resolve().name, options.license or "unknown", embodiment)
    self._root, self._texts = root, _metadata(root / "metadata.jsonl")
    self.parts: Sequence[Sequence[Path]] = batched(files, _PER_PART)

  def episodes(self, part: Sequence[Path]) -> Iterator[Episode | LeftOut]:
    for file in part:
      name = str(file.relative_to(self._root))
      try:
        picture = _read(inside(self._root, name))
        text = file.with_suffix(".txt")
        caption = text.read_text(encoding="utf-8", errors="replace") if text.is_file() else self._texts.get(name, "")
      except (LeftOut, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        yield lost(error, name, "image cannot be read")
        continue
      yield Episode(
        name=name,
        hz=_HZ,
        cameras={self.origin.embodiment.cameras[0]: iter([picture])},
        spans=[Span(0, 1, caption=caption.strip())],
        provenance={"file": name},
        variant=f"/{picture.shape[0]}x{picture.shape[1]}",
      )


def decoded(content: bytes) -> np.ndarray:
  """RGB of an encoded image that lies among other data.

  Raises:
    LeftOut: it claims more than `MAX_PIXELS`; it is not decoded then.
  """
  with _opened(io.BytesIO(content)) as image:
    return np.asarray(image.convert("RGB"))


def _opened(file: Path | io.BytesIO) -> Image.Image:
  """The image, of which only the header was read."""
  image = Image.open(file)
  if image.width * image.height > MAX_PIXELS:
    raise LeftOut("frames too large", f"{image.width} x {image.height}")
  return image


def _read(path: Path) -> np.ndarray:
  """Upright RGB, of black where it is transparent."""
  with _opened(path) as image:
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
      upright = upright.convert("RGBA")
      upright = Image.alpha_composite(Image.new("RGBA", upright.size, (0, 0, 0, 255)), upright)
    return np.asarray(upright.convert("RGB"))


def _metadata(path: Path) -> Mapping[str, str]:
  if not path.is_file():
    return {}
  try:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {line["file_name"]: str(line.get("text", "")) for line in lines}
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise KairosError(f"cannot read {path}: {type(error).__name__} {error}") from error
