"""Sessions and their memories: each has a slot, an observation extends it, and nothing is computed twice.

Not thread-safe: one thread owns it, and the device with it.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from kairos_jax import seeds as seeds_lib
from kairos_jax.errors import KairosError
from kairos_jax.runtime import Slots, WorldModel
from kairos_jax.serving.observation import Request


class Full(KairosError):
  """Every slot has its session."""


@dataclasses.dataclass(frozen=True)
class Answer:
  """What the model decided.

  Attributes:
    actions: in the robot's units.
    latents: of history that the memory holds.
    begun: whether the memory began with this observation: a new session, a reset, or one that had been released.
  """

  actions: Float[np.ndarray, "A action_dim"]
  latents: int
  begun: bool


@dataclasses.dataclass
class _Session:
  """`latents` of history are in the slot's stream (0: it begins with the next frame), `waiting` frames are not yet."""

  slot: int
  last_used: float
  prompt: str = ""
  written: str | None = None  # the prompt that the slot's context holds
  latents: int = 0
  frames: int = 0  # at the control rate, since the stream began
  waiting: list[UInt8[np.ndarray, "H W 3"]] = dataclasses.field(default_factory=list)
  calls: int = 0


@dataclasses.dataclass
class _Block:
  """Frames that change a session's stream in one go: they begin it, or extend it by one latent."""

  session: _Session
  frames: UInt8[np.ndarray, "T H W 3"]
  begins: bool


class Engine:
  """A model, and the memory of every session that asks it.

  A session's stream begins with its first observation. Later frames, which come at the robot's control rate, wait
  until they fill a latent; actions are decided from what is in the stream and the state of now. It goes on for as long
  as the session, as in `evaluation.policies.ModelPolicy`: its memory is of constant size. A new prompt begins a stream
  anew, because memory depends on it.
  """

  def __init__(
    self,
    model: WorldModel,
    *,
    capacity: int,
    batch: int,
    embodiment: str | None = None,
    steps: int = 3,
    seed: int = 0,
    chunking: bool = False,
  ):
    """Makes room; `warm_up` compiles.

    Args:
      model: with an action tower and a memory of constant size.
      capacity: sessions.
      batch: requests that are answered at once, a power of two.
      embodiment: which of the model's robots; None is the first.
      steps: denoising steps of a chunk.
      seed: of the noise, for requests that bring none.
      chunking: also compile actions that continue the chunk before, see `flow.chunking`.

    Raises:
      KairosError: a number that is too small, no power of two, or the model cannot be served.
    """
    robot = model.robot(embodiment).embodiment
    self.stride = max(1, round(robot.control_hz / model.saved.video_fps))  # control steps a frame of video
    if abs(self.stride * model.saved.video_fps - robot.control_hz) > 1e-6 * robot.control_hz:
      rates = f"{robot.control_hz:g} Hz at {model.saved.video_fps:g} frames a second"
      raise KairosError(f"embodiment {robot.name!r} is controlled with {rates}; a whole multiple is needed")
    if batch < 1 or batch & (batch - 1) or batch > capacity:
      raise KairosError(f"batch is {batch}; it must be a power of two and at most the {capacity} sessions")
    self.model, self.batch, self.capacity, self.chunking = model, batch, capacity, chunking
    self._embodiment, self._steps, self._seed = robot.name, steps, seed
    self._slots = Slots(model, capacity)
    self._sessions: dict[str, _Session] = {}
    self._free = list(range(capacity))[::-1]

  @property
  def sessions(self) -> int:
    """Sessions that have a slot."""
    return len(self._sessions)

  def warm_up(self) -> dict[int, float]:
    """Compiles everything that a request can need, and returns the seconds that a batch of each size takes at most."""
    height, width = self.model.saved.frame_size
    first, stride = self.model.codec.first_frames, self.model.codec.time_stride
    dim = self.model.robot(self._embodiment).state.dim
    seconds = {}
    sizes = [1 << k for k in range(self.batch.bit_length())]
    for slot in range(self.batch):
      self._slots.insert(slot, self.model.prefill(np.zeros((first, height, width, 3), np.uint8), ""))
    ways = ((), [(self._left(), 1)]) if self.chunking else ((),)
    for size in sizes:
      slots, new = list(range(size)), np.zeros((size, stride, height, width, 3), np.uint8)
      begin = functools.partial(self._slots.reset, slots, np.zeros((size, first, height, width, 3), np.uint8))
      decide = [
        functools.partial(self._act, slots, frames, np.zeros((size, dim), np.float32), [0] * size, [*way] * size)
        for way in ways
        for frames in ([None] * size, list(new))
      ]
      programs: list[Callable[[], Any]] = [begin, functools.partial(self._slots.extend, slots, new), *decide]
      for program in programs:
        program()
      began = time.perf_counter()
      begin()
      decide[-1]()
      seconds[size] = time.perf_counter() - began
    self._slots.drop(list(range(self.batch)))
    return seconds

  def infer(self, requests: Mapping[str, Request]) -> dict[str, Answer | KairosError]:
    """Answers one request for each of some sessions, at most `batch`; a session without a slot gets one.

    A request that is refused changes nothing. If this raises, which it should not, what these sessions hold is unknown:
    `release` them.
    """
    answers: dict[str, Answer | KairosError] = {}
    blocks: dict[str, list[_Block]] = {}
    for name, request in requests.items():
      try:
        blocks[name] = self._see(self._session(name), request)
      except KairosError as error:
        answers[name] = error
    begun = {name: bool(todo) and todo[0].begins and not self._sessions[name].latents for name, todo in blocks.items()}
    # The last frames that go on with a stream are seen by the program that decides; all others are before it.
    last = {name: todo.pop() for name, todo in blocks.items() if todo and not todo[-1].begins}
    for turn in range(max(map(len, blocks.values()), default=0)):
      self._remember([todo[turn] for todo in blocks.values() if turn < len(todo)])
    if blocks:
      going_on = [name for name in blocks if requests[name].previous is not None]
      for names in (going_on, [name for name in blocks if name not in going_on]):
        for name, chunk in self._decide({name: requests[name] for name in names}, last).items():
          session = self._sessions[name]
          session.calls, session.last_used = session.calls + 1, time.monotonic()
          answers[name] = Answer(chunk, session.latents, begun[name])
    return answers

  def reset(self, name: str) -> None:
    """Forgets what a session saw; its slot stays its own."""
    if session := self._sessions.get(name):
      self._sessions[name] = _Session(session.slot, time.monotonic(), session.prompt, session.written)

  def release(self, name: str) -> None:
    """Gives a session's slot back. Nothing happens if it has none."""
    if session := self._sessions.pop(name, None):
      self._free.append(session.slot)

  def release_idle(self, seconds: float) -> list[str]:
    """Releases sessions that have asked nothing for so long, and names them."""
    now = time.monotonic()
    idle = [name for name, session in self._sessions.items() if now - session.last_used > seconds]
    for name in idle:
      self.release(name)
    return idle

  def _session(self, name: str) -> _Session:
    if name not in self._sessions:
      if not self._free:
        raise Full(f"all {self.capacity} sessions are in use")
      self._sessions[name] = _Session(self._free.pop(), time.monotonic())
    return self._sessions[name]

  def _see(self, session: _Session, request: Request) -> list[_Block]:
    """What a request's frames do to its session's stream, one after the other."""
    if request.prompt is not None and request.prompt != session.prompt:
      session.prompt = request.prompt
      session.latents = session.frames = 0
      session.waiting.clear()
    kept = list(request.frames[-session.frames % self.stride :: self.stride])
    session.frames += len(request.frames)
    if not session.latents:  # all that came before the first decision is in the video's first latent
      return [_Block(session, self._first(kept), begins=True)]
    session.waiting += kept
    blocks, size = [], self.model.codec.time_stride
    while len(session.waiting) >= size:
      now, session.waiting = session.waiting[:size], session.waiting[size:]
      blocks.append(_Block(session, np.stack(now), begins=False))
    return blocks

  def _first(self, frames: Sequence[UInt8[np.ndarray, "H W 3"]]) -> UInt8[np.ndarray, "F H W 3"]:
    """What begins a video: the latest frames; where there are too few, the oldest stands still before them."""
    count = self.model.codec.first_frames
    return np.stack([*[frames[0]] * (count - len(frames)), *frames[-count:]])

  def _remember(self, blocks: Sequence[_Block]) -> None:
    """Writes one block of each of some sessions, all that begin at once and all that go on at once."""
    for block in blocks:
      session = block.session
      session.latents = 1 if block.begins else session.latents + 1
      if session.written != session.prompt:
        self._slots.insert(session.slot, self.model.prefill(block.frames, session.prompt))
    written = [block for block in blocks if block.session.written == block.session.prompt]
    for block in blocks:
      block.session.written = block.session.prompt
    for begins, write in ((True, self._slots.reset), (False, self._slots.extend)):
      if some := [block for block in written if block.begins == begins]:
        write([block.session.slot for block in some], np.stack([block.frames for block in some]))

  def _noise(self, session: _Session, request: Request) -> int:
    """The seed of one call: the request's own, or one for its number in the session, so that no batch changes it."""
    return seeds_lib.derive(self._seed, "call", session.calls) if request.seed is None else request.seed

  def _decide(
    self, requests: Mapping[str, Request], last: Mapping[str, _Block]
  ) -> dict[str, Float[np.ndarray, "A action_dim"]]:
    """The chunks of some sessions, all of which continue one or none of which does, after what they saw last."""
    if not requests:
      return {}
    sessions = [self._sessions[name] for name in requests]
    noise = [self._noise(session, requests[name]) for name, session in zip(requests, sessions, strict=True)]
    states = np.stack([request.state for request in requests.values()])
    before = [(request.previous, request.delay) for request in requests.values() if request.previous is not None]
    frames = [last[name].frames if name in last else None for name in requests]
    for name in requests:
      self._sessions[name].latents += name in last
    return dict(zip(requests, self._act([one.slot for one in sessions], frames, states, noise, before), strict=True))

  def _act(
    self,
    slots: Sequence[int],
    frames: Sequence[UInt8[np.ndarray, "T H W 3"] | None],
    states: Float[np.ndarray, "N S"],
    seeds: Sequence[int],
    before: Sequence[tuple[Float[np.ndarray, "_ action_dim"], int]] = (),
  ) -> Float[np.ndarray, "N A action_dim"]:
    options: dict[str, Any] = dict(seeds=seeds, steps=self._steps, embodiment=self._embodiment)
    if before:
      options.update(previous=[left for left, _ in before], delays=[delay for _, delay in before])
    if all(new is None for new in frames):
      return self._slots.act(slots, states, **options)
    return self._slots.step(slots, frames, states, **options)

  def _left(self) -> Float[np.ndarray, "n action_dim"]:
    """Something that is left of a chunk, to compile with."""
    robot = self.model.robot(self._embodiment)
    return np.zeros((self.model.saved.action_horizon // 2, robot.action.dim), np.float32)
