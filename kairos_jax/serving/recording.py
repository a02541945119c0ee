"""What a server's sessions saw and did, kept as episodes in the format of the replay. Nothing is kept unless asked for.

The server knows what it was shown and what it answered. What a robot did between two requests follows from the
protocol: a frame is a control step, and the steps since the last request were its chunk's, the first `delay` of them
still those of the chunk before. A step that goes beyond the chunk has no label.
"""

import dataclasses
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Bool, Float, Float32, UInt8

from data_pipelines.embodiments import Embodiment
from data_pipelines.records import Clip
from kairos_jax.replay import Origin, Replay
from kairos_jax.serving.observation import Request

MAX_BYTES = 2**27  # of an episode's pictures; a longer one goes on as another
_UNKNOWN, _TOLD = "unknown", "told"


@dataclasses.dataclass
class _Episode:
  """One at work; `plan` is the chunk that the robot executes."""

  prompt: str
  images: list[Mapping[str, UInt8[np.ndarray, "T _ _ 3"]]] = dataclasses.field(default_factory=list)
  states: dict[int, Float[np.ndarray, "S"]] = dataclasses.field(default_factory=dict)  # by frame
  actions: dict[int, Float[np.ndarray, "A"]] = dataclasses.field(default_factory=dict)  # likewise
  plan: Float[np.ndarray, "n A"] | None = None
  frames: int = 0
  bytes: int = 0


class Recorder:
  """Episodes of all sessions. Its methods may be called from several threads, of one session one after the other."""

  def __init__(self, folder: str | Path, model: str, robot: Embodiment, most_bytes: int):
    """Nothing is written before an episode ends.

    Args:
      folder: of the replay.
      model: content hash of the one that acts.
      robot: that is driven.
      most_bytes: of all files below the folder; what comes later is not kept.
    """
    self._folder, self._model, self._robot, self._most = Path(folder), model, robot, most_bytes
    self._episodes: dict[str, _Episode] = {}
    self._lock = threading.Lock()
    self._used = sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())

  def ends(self, session: str, request: Request) -> bool:
    """Whether a request begins another episode: by another prompt, as it begins another memory, or for want of room."""
    episode = self._episodes.get(session)
    if episode is None:
      return False
    return (request.prompt is not None and request.prompt != episode.prompt) or episode.bytes > MAX_BYTES

  def add(self, session: str, request: Request, actions: Float[np.ndarray, "A action_dim"]) -> None:
    """Notes a request and its answer; before one that `ends` an episode, `end` is called. Nothing is written here."""
    episode = self._episodes.get(session)
    if episode is None:
      episode = self._episodes[session] = _Episode(request.prompt or "")
    elif episode.plan is not None:
      episode.actions |= {episode.frames - 1 + step: x for step, x in enumerate(episode.plan[: len(request.frames)])}
    episode.images.append(request.images)
    episode.frames += len(request.frames)
    episode.bytes += sum(video.nbytes for video in request.images.values())
    episode.states[episode.frames - 1] = request.state
    episode.plan = np.asarray(actions)
    if request.previous is not None:
      episode.plan = np.concatenate([request.previous[: request.delay], episode.plan[request.delay :]])

  def end(self, session: str, success: bool | None = None) -> None:
    """Writes a session's episode, if it has one with an action; `success` as its robot has told."""
    episode = self._episodes.pop(session, None)
    if episode is None or not episode.actions:
      return
    origin = Origin(self._model, f"served/{self._robot.name}", secrets.randbits(63), bool(success))
    clip = self._clip(episode, origin, _UNKNOWN if success is None else _TOLD)
    size = sum(video.nbytes for video in clip.cameras.values()) + clip.state.nbytes + clip.action.nbytes
    with self._lock:
      if self._used + size > self._most:
        logging.warning("an episode of %d MB is not kept: %s is full", size >> 20, self._folder)
        return
      self._used += size
    try:
      Replay(self._folder).add(clip, origin)
    except OSError as error:  # robots are answered all the same
      logging.warning("an episode is not kept: %s", error)

  def end_all(self) -> None:
    """Writes all that is at work."""
    for session in list(self._episodes):
      self.end(session)

  def _clip(self, episode: _Episode, origin: Origin, outcome: str) -> Clip:
    count, hz = episode.frames, self._robot.control_hz
    state, state_mask = _labels(episode.states, count)
    action, action_mask = _labels(episode.actions, count)
    return Clip(
      cameras={name: np.concatenate([seen[name] for seen in episode.images]) for name in episode.images[0]},
      video_fps=hz,
      action_hz=hz,
      state=state,
      state_mask=state_mask,
      action=action,
      action_mask=action_mask,
      embodiment=self._robot.name,
      source="served",
      license="unknown",
      caption="",
      instruction=episode.prompt,
      provenance={"origin": origin._asdict(), "outcome": outcome},
    )


def _labels(
  known: Mapping[int, Float[np.ndarray, "D"]], count: int
) -> tuple[Float32[np.ndarray, "T D"], Bool[np.ndarray, "T"]]:
  """A row for each frame, and which of them are known."""
  values, mask = np.zeros((count, len(next(iter(known.values())))), np.float32), np.zeros(count, bool)
  for frame, row in known.items():
    if frame < count:
      values[frame], mask[frame] = row, True
  return values, mask
