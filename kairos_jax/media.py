"""Videos and pictures on disk: H.264 that browsers play, and labeled strips of frames; whole or not there."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from kairos_jax import files
from kairos_jax.errors import KairosError

_LABEL = (128, 128, 134, 255)  # readable on white and on black, as the strip's ground is transparent


@contextlib.contextmanager
def mp4_writer(
  path: str | os.PathLike, fps: float, scale: int = 4
) -> Iterator[Callable[[UInt8[np.ndarray, "H W 3"]], None]]:
  """Yields a function that appends a frame; the file appears under its name when the block ends well.

    with mp4_writer("runs/rollout.mp4", fps=10) as write:
      write(frame)

  Args:
    path: where to write; its folder is made if need be.
    fps: frames per second.
    scale: each pixel becomes a square of this many, so that small frames stay sharp in a player.

  Raises:
    KairosError: a frame that is not uint8 [H, W, 3] or not of the first one's size, or no frame at all.
  """
  size = None
  with files.replaced(path) as temporary, av.open(temporary, "w", options={"movflags": "faststart"}) as container:
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
    stream.pix_fmt = "yuv420p"
    stream.options = {"crf": "18", "preset": "veryfast"}

    def write(frame: UInt8[np.ndarray, "H W 3"]) -> None:
      nonlocal size
      if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
        raise KairosError(f"video: frame of shape {frame.shape} {frame.dtype}; it must be uint8 [H, W, 3]")
      if size is None:
        size = frame.shape
        # 4:2:0 color needs even sides: an odd one is continued by a line.
        stream.height, stream.width = (-(-side * scale // 2) * 2 for side in size[:2])
      if frame.shape != size:
        raise KairosError(f"video: frame of shape {frame.shape} after frames of {size}; they must be alike")
      big = frame.repeat(scale, axis=0).repeat(scale, axis=1)
      big = np.pad(big, [(0, stream.height - big.shape[0]), (0, stream.width - big.shape[1]), (0, 0)], "edge")
      container.mux(stream.encode(av.VideoFrame.from_ndarray(big, format="rgb24")))

    yield write
    if size is None:
      raise KairosError(f"video: {os.fspath(path)!r} would have no frames")
    container.mux(stream.encode(None))


def write_mp4(
  path: str | os.PathLike, frames: Iterable[UInt8[np.ndarray, "H W 3"]], fps: float, scale: int = 4
) -> None:
  """Writes frames [T, H, W, 3] as H.264, each pixel as a square of `scale` pixels."""
  with mp4_writer(path, fps, scale) as write:
    for frame in frames:
      write(frame)


def mosaic(videos: Sequence[UInt8[np.ndarray, "_ H W 3"]], columns: int) -> UInt8[np.ndarray, "T R C 3"]:
  """Videos side by side in rows of `columns`, each held at its last frame until all have ended."""
  length = max(len(video) for video in videos)
  held = [np.concatenate([v, np.repeat(v[-1:], length - len(v), axis=0)]) for v in videos]
  held += [np.zeros_like(held[0])] * (-len(held) % columns)
  rows = [np.concatenate(held[i : i + columns], axis=2) for i in range(0, len(held), columns)]
  return np.concatenate(rows, axis=1)


def read_video(path: str | os.PathLike) -> UInt8[np.ndarray, "T H W 3"]:
  """All frames of a video, RGB. Raises KairosError if the file is missing or cannot be decoded."""
  try:
    with av.open(os.fspath(path)) as container:
      return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
  except (av.FFmpegError, OSError, IndexError, ValueError) as error:
    raise KairosError(f"cannot read the video {os.fspath(path)!r}: {error}") from None


def frame_strip(
  rows: Sequence[tuple[str, UInt8[np.ndarray, "_ H W 3"]]], path: str | os.PathLike, scale: int = 2
) -> None:
  """Writes a picture with a labeled row of frames for each (label, frames); rows may differ in length."""
  gap, label_height = 2 * scale, 9 * scale
  font = ImageFont.load_default(size=6 * scale)
  height, width = (side * scale for side in rows[0][1].shape[1:3])
  columns = max(len(frames) for _, frames in rows)
  sheet = Image.new(
    "RGBA", (columns * (width + gap) + gap, len(rows) * (height + label_height + gap) + gap), (0, 0, 0, 0)
  )
  draw = ImageDraw.Draw(sheet)
  for row, (label, frames) in enumerate(rows):
    top = gap + row * (height + label_height + gap)
    draw.text((gap, top), label, fill=_LABEL, font=font)
    for column, frame in enumerate(frames):
      picture = Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST)
      sheet.paste(picture, (gap + column * (width + gap), top + label_height))
  with files.replaced(path) as temporary:
    sheet.save(temporary)


def resize(image: UInt8[np.ndarray, "H W 3"], height: int, width: int) -> UInt8[np.ndarray, "{height} {width} 3"]:
  """A picture of another size, by PIL's bicubic filter as in the reference's pipeline."""
  return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def to_unit(pixels: UInt8[np.ndarray, "*B"], dtype: Any = np.float32) -> Float[np.ndarray, "*B"]:
  """Colors in [-1, 1]; each operation is rounded to `dtype`, as the reference's pipeline does in bfloat16."""
  scaled = (pixels.astype(np.float32) * np.float32(2 / 255)).astype(dtype)
  return (scaled - np.ones((), dtype)).astype(dtype)


def to_pixels(video: Float[np.ndarray, "*B"]) -> UInt8[np.ndarray, "*B"]:
  """Colors in [-1, 1] to bytes; fractions are cut off and not rounded, as in the reference's pipeline."""
  return np.clip((np.asarray(video, np.float32) + 1) * 127.5, 0, 255).astype(np.uint8)
