"""Small datasets shared by the tests; no rendering."""

import numpy as np
import pytest

from data_pipelines.embodiments import Embodiment, Quantity
from data_pipelines.normalize import EmbodimentNormalizer, Normalizer
from data_pipelines.records import Clip
from data_pipelines.shards import write_shards
from data_pipelines.source import ArrayRecordSource


def make_clip(number=0, frames=9, state_dim=3, action_dim=3, source="robot", size=8, **changes):
  """A clip whose pixels, states and actions all tell its number and the time."""
  time = np.arange(frames)
  video = np.broadcast_to(time.astype(np.uint8)[:, None, None, None], (frames, size, size, 3)) + np.uint8(number)
  fields = dict(
    cameras={"front": video},
    video_fps=10.0,
    action_hz=10.0,
    state=np.tile(time[:, None], (1, state_dim)).astype(np.float32) + number,
    action=np.tile(time[:-1, None], (1, action_dim)).astype(np.float32) + number,
    state_mask=np.full(frames, state_dim > 0),
    action_mask=np.full(frames - 1, action_dim > 0),
    embodiment="slide_arm" if state_dim or action_dim else "hand",
    source=source,
    license="CC-BY-4.0",
    caption=f"clip {number}",
    instruction="do it",
  )
  return Clip(**{**fields, **changes})


def make_embodiment(name="slide_arm", state_dim=3, action_dim=3, **changes):
  fields = dict(
    name=name,
    control_hz=10.0,
    state=tuple(Quantity(f"s{i}", "m") for i in range(state_dim)),
    action=tuple(Quantity(f"a{i}", "fraction") for i in range(action_dim)),
    gripper="",
    normalization="none",
    scope="global",
    cameras=("front",),
    layout="single",
    picture_size=None,
  )
  return Embodiment(**{**fields, **changes})


def identity(embodiment):
  """Leaves numbers as they are, so that tests can read the time in them."""
  parts = [
    Normalizer("none", np.zeros(len(part), np.float32), np.ones(len(part), np.float32))
    for part in (embodiment.state, embodiment.action)
  ]
  return EmbodimentNormalizer(embodiment, *parts)


@pytest.fixture
def datasets(tmp_path):
  """Folders of two sources: "robot", 20 labeled clips in 5 shards, and "hand", 12 unlabeled clips in 3."""
  write_shards((make_clip(i, 9 + i % 4) for i in range(20)), tmp_path / "robot", "robot", 4)
  clips = (make_clip(100 + i, state_dim=0, action_dim=0, source="hand", instruction="") for i in range(12))
  write_shards(clips, tmp_path / "hand", "hand", 4)
  return {"robot": tmp_path / "robot", "hand": tmp_path / "hand"}


def open_sources(folders, report=None):
  return {name: ArrayRecordSource(folder, report) for name, folder in folders.items()}
