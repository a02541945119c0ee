"""Files that claim little and hold much: refused before it is allocated. Each test measures the process's memory."""

import contextlib
import json
import resource
import struct
import zlib

import numpy as np
import pytest

from data_pipelines.sources import images, lerobot_meta, open_source, video
from data_pipelines.sources.episode import LeftOut
from data_pipelines.sources.images import decoded
from kairos_jax.errors import KairosError
from tests.data_pipelines.sources import test_lerobot
from tests.data_pipelines.sources.media import encoded, write_video

h5py = pytest.importorskip("h5py")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def little_memory():
  """Fails if the process's largest size has grown by 300 MB. Earlier tests may hide a growth, never make one up."""
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  yield
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def png_of(side):
  """A black square of a few kB, whatever its side."""

  def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

  packer = zlib.compressobj()
  rows = b"".join(packer.compress(bytes(side * 3 + 1)) for _ in range(min(side, 64))) + packer.flush()
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0)) + chunk(b"IDAT", rows)


def test_an_encoded_image_among_other_data_is_not_decoded_before_its_size_is_known(little_memory):
  with pytest.raises(LeftOut, match="10000 x 10000"):
    decoded(png_of(10_000))
  assert decoded(encoded(np.full((4, 6, 3), 9, np.uint8))).shape == (4, 6, 3)


def test_a_chunk_of_hdf5_that_unfolds_to_gigabytes_is_not_read(tmp_path, little_memory):
  with h5py.File(tmp_path / "x.hdf5", "w") as file:
    demo = file.create_group("data/demo_0")
    file["data"].attrs["problem_info"] = json.dumps({"language_instruction": "wait"})
    demo.create_dataset("actions", (2, 7), "f8")
    for name, shape in (("agentview_rgb", (3000, 512, 512, 3)), ("eye_in_hand_rgb", (2, 8, 8, 3))):
      demo.create_dataset(f"obs/{name}", shape, "u1", chunks=shape, compression="gzip")
    for name, width in (("ee_pos", 3), ("ee_ori", 3), ("gripper_states", 2), ("joint_states", 7)):
      demo.create_dataset(f"obs/{name}", (2, width), "f8")
  recordings = open_source("libero", tmp_path)
  assert not list(recordings) and recordings.report.left_out == {"field too large": 1}


def test_one_value_of_parquet_repeated_into_gigabytes_is_not_read(tmp_path, monkeypatch, little_memory):
  """4,000 rows of one image of 1 MB, in a file of less than 2 MB; then 12 million rows of one number."""
  one = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4000, np.int32)), pa.array([bytes(2**20)]))
  pq.write_table(pa.table({"image": one}), tmp_path / "images.parquet", store_schema=False)
  many = pa.table({"episode_index": pa.chunked_array([pa.array(np.zeros(10**6, np.int64))] * 12)})
  pq.write_table(many, tmp_path / "rows.parquet", compression="zstd")
  assert all((tmp_path / name).stat().st_size < 2**21 for name in ("images.parquet", "rows.parquet"))
  monkeypatch.setattr(lerobot_meta, "MAX_TABLE", 2**26)
  for name, column in (("images.parquet", "image"), ("rows.parquet", "episode_index")):
    with pytest.raises(KairosError, match="at most 67108864"):
      lerobot_meta.read_rows(pq, tmp_path / name, [column])


def test_tables_in_several_batches_are_read_whole(tmp_path, monkeypatch):
  path, _ = test_lerobot.TestLeRobotV3().write(tmp_path)
  whole = open_source("lerobot", path)
  monkeypatch.setattr(lerobot_meta, "_BATCH", 2)
  for clip, again in zip(whole, open_source("lerobot", path), strict=True):
    np.testing.assert_array_equal(clip.action, again.action)
    np.testing.assert_array_equal(clip.state, again.state)


class Backwards:
  """A decoder that gives the frames of a damaged stream: the times of the last two are exchanged."""

  def __init__(self, container):
    self._container = container

  def decode(self, stream):
    *frames, third, last = self._container.decode(stream)
    third.pts, last.pts = last.pts, third.pts
    return iter([*frames, third, last])

  def __getattr__(self, name):
    return getattr(self._container, name)


def test_times_of_a_video_that_go_back_lose_it(tmp_path, monkeypatch):
  write_video(tmp_path / "x.mp4", np.zeros((6, 16, 16, 3), np.uint8), 10)
  opened = video._opened

  @contextlib.contextmanager
  def damaged(path):
    with opened(path) as (container, stream):
      yield Backwards(container), stream

  monkeypatch.setattr(video, "_opened", damaged)
  with pytest.raises(LeftOut, match="a frame at .* after one at"):
    list(video.frames(tmp_path / "x.mp4"))


def test_a_folder_of_images_with_a_bomb_keeps_the_others(tmp_path, little_memory):
  (tmp_path / "a.png").write_bytes(png_of(20_000))
  (tmp_path / "b.jpg").write_bytes(encoded(np.full((8, 8, 3), 50, np.uint8)))
  (tmp_path / "c.jpg").write_bytes(encoded(np.full((8, 8, 3), 50, np.uint8))[:80])
  recordings = open_source("images", tmp_path)
  (clip,) = recordings
  assert clip.cameras["front"].shape == (1, 8, 8, 3) and sum(recordings.report.left_out.values()) == 2
  assert images.MAX_PIXELS < 20_000**2
