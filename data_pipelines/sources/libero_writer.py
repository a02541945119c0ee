"""Writes clips of LIBERO's robot as the benchmark's own demonstration files, one an instruction. Needs h5py."""

import contextlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.records import Clip
from data_pipelines.sources.options import needed
from kairos_jax import files
from kairos_jax.errors import KairosError

EMBODIMENT = "libero_franka"
_CAMERAS = {"agentview": "agentview_rgb", "wrist": "eye_in_hand_rgb"}
_STATE = {"ee_pos": slice(0, 3), "ee_ori": slice(3, 6), "gripper_states": slice(6, 8)}


def write_libero(clips: Iterable[Clip], folder: str | Path) -> int:
  """Writes one demonstration a clip and returns how many.

  A demonstration has a frame an action; what comes after a clip's last action is dropped. Pictures lie as the simulator
  gives them, rotated by 180 degrees from a clip's. Joint angles are not known and not written.

  Raises:
    KairosError: the folder is not empty, there are no clips, or a clip is of another robot or not wholly labeled.
  """
  h5py, folder = needed("h5py", "writing LIBERO"), Path(folder)
  if folder.exists() and any(folder.iterdir()):
    raise KairosError(f"{folder} is not empty: LIBERO's files are written to a new folder")
  count, data = 0, dict[str, Any]()
  with contextlib.ExitStack() as held:
    for clip in clips:
      _check(clip)
      words = re.sub(r"\W+", "_", clip.instruction.lower()).strip("_")
      name = f"{words}_demo.hdf5"
      if name not in data:
        path = held.enter_context(files.replaced(folder / name))
        data[name] = held.enter_context(h5py.File(path, "w")).create_group("data")
        data[name].attrs["problem_info"] = json.dumps({"language_instruction": clip.instruction})
      _write(data[name].create_group(f"demo_{len(data[name])}"), clip)
      count += 1
  if not count:
    raise KairosError(f"nothing to write to {folder}: at least one clip is required")
  return count


def _write(demo: Any, clip: Clip) -> None:
  length = min(len(clip.action), clip.frames)
  demo.attrs["num_samples"] = length
  demo["actions"] = clip.action[:length].astype(np.float64)
  obs = demo.create_group("obs")
  for ours, theirs in _CAMERAS.items():
    video = clip.cameras[ours][:length, ::-1, ::-1]
    obs.create_dataset(theirs, data=video, chunks=(1, *video.shape[1:]), compression="gzip")
  for theirs, part in _STATE.items():
    obs[theirs] = clip.state[:length, part].astype(np.float64)


def _check(clip: Clip) -> None:
  if clip.embodiment != EMBODIMENT or set(_CAMERAS) - set(clip.cameras):
    raise KairosError(
      f"a clip of {clip.embodiment!r} with {', '.join(clip.cameras)}: LIBERO's files are of {EMBODIMENT}"
    )
  if clip.video_fps != clip.action_hz or not (clip.action_mask.all() and clip.state_mask.all()):
    raise KairosError("LIBERO's files have an action and a state at each frame, and no masks")
  if not len(clip.action) or len(clip.state) < min(len(clip.action), clip.frames):
    raise KairosError(
      f"a clip has {len(clip.action)} actions and {len(clip.state)} states: LIBERO's need one at each frame"
    )
