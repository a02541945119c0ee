"""Small datasets shared by the tests; no rendering."""

import numpy as np
import pytest

from data_pipelines.records import Clip
from data_pipelines.shards import write_shards


def make_clip(number=0, frames=9, state_dim=3, action_dim=3, source="robot", size=8, **changes):
  """A clip whose pixels, states and actions all tell its number and the time."""
  time = np.arange(frames)
  fields = dict(
    video=np.broadcast_to(time.astype(np.uint8)[:, None, None, None], (frames, size, size, 3)) + np.uint8(number),
    fps=10.0,
    caption=f"clip {number}",
    instruction="do it",
    state=np.tile(time[:, None], (1, state_dim)).astype(np.float32) + number,
    action=np.tile(time[:-1, None], (1, action_dim)).astype(np.float32) + number,
    state_mask=np.full(frames, state_dim > 0),
    action_mask=np.full(frames - 1, action_dim > 0),
    source=source,
    embodiment="test",
  )
  return Clip(**{**fields, **changes})


@pytest.fixture
def datasets(tmp_path):
  """Folders of two sources: "robot", 20 labeled clips in 5 shards, and "hand", 12 unlabeled clips in 3."""
  write_shards((make_clip(i, 9 + i % 4) for i in range(20)), tmp_path / "robot", "robot", 4)
  clips = (make_clip(100 + i, state_dim=0, action_dim=0, source="hand", instruction="") for i in range(12))
  write_shards(clips, tmp_path / "hand", "hand", 4)
  return {"robot": tmp_path / "robot", "hand": tmp_path / "hand"}
