"""Raw videos for whole curations, and their damages."""

import numpy as np
import pytest

from data_pipelines.curation.shots import footage
from tests.data_pipelines.sources.media import write_video

FPS = 10


def scene(seed, seconds, step=2):
  """A camera that pans over a picture of its own."""
  world = footage._world(np.random.default_rng(seed))
  frames = round(seconds * FPS)
  columns = step * np.arange(frames) % (world.shape[1] - 96)
  return np.stack([world[100:164, column : column + 96] for column in columns]).astype(np.uint8)


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
  """A folder of videos: two shots, a copy in less resolution, a short one, black, and damaged ones."""
  folder = tmp_path_factory.mktemp("raw")
  write_video(folder / "a_two.mp4", np.concatenate([scene(1, 6), scene(2, 7)]), FPS)
  (folder / "a_two.txt").write_text("A robot arm picks up a cup; then people dance <script>alert(1)</script>.")
  write_video(folder / "b_copy.mp4", scene(2, 6.5)[3:, ::2, ::2], FPS, crf="18")
  write_video(folder / "c_short.mp4", scene(3, 3), FPS)
  write_video(folder / "d_black.mp4", np.zeros((60, 64, 96, 3), np.uint8), FPS)
  write_video(folder / "e_still.mp4", scene(4, 6, step=0), FPS)
  write_video(folder / "f_good.mp4", scene(5, 8), FPS)
  whole = (folder / "f_good.mp4").read_bytes()
  (folder / "g_empty.mp4").write_bytes(b"")
  (folder / "h_truncated.mp4").write_bytes(whole[: len(whole) // 2])
  (folder / "i_noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
  write_video(folder / "j_good.mp4", scene(6, 6), FPS)
  return folder
