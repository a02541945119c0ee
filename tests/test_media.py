"""Videos and pictures survive the disk, and a failed write leaves nothing behind."""

import av
import numpy as np
import pytest
from PIL import Image

from kairos_jax import media
from kairos_jax.errors import KairosError


def moving_square(frames=9, height=24, width=32):
  video = np.full((frames, height, width, 3), 60, np.uint8)
  for t in range(frames):
    video[t, 8:16, t : t + 8] = (220, 40, 30)
  return video


def test_mp4_round_trip(tmp_path):
  video = moving_square()
  media.write_mp4(tmp_path / "new" / "square.mp4", video, fps=10, scale=4)
  read = media.read_video(tmp_path / "new" / "square.mp4")
  assert read.shape == (9, 96, 128, 3)
  assert np.abs(read[:, 2::4, 2::4].astype(int) - video).mean() < 4
  with av.open(str(tmp_path / "new" / "square.mp4")) as container:
    stream = container.streams.video[0]
    assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 10)
  assert [path.name for path in (tmp_path / "new").iterdir()] == ["square.mp4"]


def test_odd_sizes_are_padded_to_even_ones(tmp_path):
  media.write_mp4(tmp_path / "odd.mp4", moving_square(height=23, width=31), fps=12.5, scale=1)
  assert media.read_video(tmp_path / "odd.mp4").shape == (9, 24, 32, 3)


def test_a_failed_write_leaves_the_old_file(tmp_path):
  (tmp_path / "old.mp4").write_bytes(b"old")
  with pytest.raises(RuntimeError), media.mp4_writer(tmp_path / "old.mp4", fps=10) as write:
    write(moving_square()[0])
    raise RuntimeError
  assert (tmp_path / "old.mp4").read_bytes() == b"old"
  assert [path.name for path in tmp_path.iterdir()] == ["old.mp4"]


@pytest.mark.mistakes
@pytest.mark.parametrize(
  "frames, line",
  [
    ([], "no frames"),
    ([np.zeros((8, 8, 3), np.float32)], "must be uint8"),
    ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 16, 3), np.uint8)], "must be alike"),
  ],
)
def test_bad_frames(tmp_path, frames, line):
  with pytest.raises(KairosError, match=line):
    media.write_mp4(tmp_path / "x.mp4", frames, fps=10)
  assert not list(tmp_path.iterdir())


def test_unreadable_video(tmp_path):
  (tmp_path / "x.mp4").write_bytes(b"not a video")
  for name in ("x.mp4", "missing.mp4"):
    with pytest.raises(KairosError, match=f"cannot read the video '.*{name}'"):
      media.read_video(tmp_path / name)


def test_frame_strip_places_each_frame(tmp_path):
  video = moving_square(frames=3, height=8, width=8)
  video[2] = (10, 200, 30)
  media.frame_strip([("real", video), ("imagined", video[:2])], tmp_path / "strip.png", scale=2)
  sheet = np.asarray(Image.open(tmp_path / "strip.png").convert("RGBA"))
  assert sheet.shape == (2 * (16 + 18 + 4) + 4, 3 * (16 + 4) + 4, 4)
  assert (sheet[22:38, 44:60] == (10, 200, 30, 255)).all()  # row 0, column 2
  assert (sheet[-20:-4, 44:60, 3] == 0).all()  # row 1 has no column 2


def test_a_mosaic_holds_the_last_frame_of_a_video_that_ended():
  videos = [
    np.full((t, 4, 6, 3), 50 * t, np.uint8) * np.arange(1, t + 1, dtype=np.uint8)[:, None, None, None]
    for t in (1, 3, 2)
  ]
  sheet = media.mosaic(videos, columns=2)
  assert sheet.shape == (3, 8, 12, 3)
  assert sheet[:, 0, 0, 0].tolist() == [50, 50, 50]
  assert sheet[:, 0, 6, 0].tolist() == [150, 44, 194]  # 150, 300, 450 in eight bits
  assert sheet[:, 4, 0, 0].tolist() == [100, 200, 200] and not sheet[:, 4:, 6:].any()
