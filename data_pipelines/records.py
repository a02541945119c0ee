"""The record: one clip of named cameras with its texts and, where known, states and actions. Every source writes it.

The schema, with shapes and units, is in docs/data.md. Records are safetensors bytes in ArrayRecord shards.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float16, Float32, UInt8
from safetensors import SafetensorError
from safetensors.numpy import load, save

from kairos_jax.errors import KairosError

VERSION = 2
MAX_BYTES = 2**30  # of a record; a longer one is refused before it is parsed
_MAX_DESCRIPTION = 2**20  # bytes of JSON


class Encoding(NamedTuple):
  """What all latents of a source have in common.

  Attributes:
    made_by: content hash of the autoencoder.
    video_fps: Hz, of the frames that they are of.
    frames: of a sample.
    height, width: of its pictures, pixels.
  """

  made_by: str
  video_fps: float
  frames: int
  height: int
  width: int


@dataclasses.dataclass(frozen=True)
class Latents:
  """One sample of a clip, as an autoencoder sees it, in the place of the clip's pictures.

  Attributes:
    values: of the sample's frames, those beyond the clip's end included.
    start: the clip's frame that the sample begins with.
    clip_frames: T, of the clip.
    encoding: how they were made.
  """

  values: Float16[np.ndarray, "N h w C"]
  start: int
  clip_frames: int
  encoding: Encoding

  def __post_init__(self):
    """Holds them to the schema."""
    if self.values.dtype != np.float16 or self.values.ndim != 4 or 0 in self.values.shape:
      raise KairosError(
        f"clip latents are {self.values.dtype} {list(self.values.shape)}: float16 [N, h, w, C] is required, none 0"
      )
    if not np.isfinite(self.values).all():
      raise KairosError("clip latents hold NaN or infinity")
    if not (isinstance(self.start, int) and isinstance(self.clip_frames, int) and 0 <= self.start < self.clip_frames):
      raise KairosError(f"clip latents begin at frame {self.start!r} of {self.clip_frames!r}: one of them is required")


@dataclasses.dataclass(frozen=True)
class Clip:
  """One clip. Frame i is in force from time i / video_fps, state and action i from time i / action_hz, all from 0 s.

  A frame's state and action are therefore found by time, never by index. A mask is False where nothing is labeled.

  Raises:
    KairosError: on construction, if an array or a number breaks the schema.
  """

  cameras: Mapping[str, UInt8[np.ndarray, "T H W 3"]]  # of one T; each camera has a size of its own; {} with latents
  video_fps: float  # Hz
  action_hz: float  # Hz, of states and actions
  state: Float32[np.ndarray, "N S"]  # in the embodiment's units; N and S may be 0
  action: Float32[np.ndarray, "M A"]
  state_mask: Bool[np.ndarray, "N"]
  action_mask: Bool[np.ndarray, "M"]
  embodiment: str  # see data_pipelines/embodiments
  source: str  # the dataset that the clip comes from
  license: str  # an SPDX identifier, or "unknown"
  caption: str  # detailed: what is seen and what happens
  instruction: str  # a short imperative; "" if none
  paraphrases: tuple[str, ...] = ()  # other wordings of the instruction
  provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # free JSON: where exactly it comes from
  executed: Float32[np.ndarray, "M A"] | None = None  # what the robot did where action says what it should; None: that
  latents: Latents | None = None  # of one sample, in the place of cameras

  def __post_init__(self):
    """Holds every clip, made or read, to the schema."""
    if bool(self.cameras) == (self.latents is not None):
      raise KairosError(f"clip cameras is {list(self.cameras)}: at least one is required, or latents and none")
    for name, video in self.cameras.items():
      if not name or "/" in name:
        raise KairosError(f"clip camera {name!r}: a name without a slash is required")
      if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
        raise KairosError(
          f"clip camera {name!r} is {video.dtype} {list(video.shape)}: uint8 [T, H, W, 3] is required, none of them 0"
        )
    lengths = {name: len(video) for name, video in self.cameras.items()}
    if len(set(lengths.values())) > 1:
      raise KairosError(f"clip cameras have {lengths} frames: one number is required")
    for name in ("state", "action"):
      values, mask = getattr(self, name), getattr(self, f"{name}_mask")
      if values.dtype != np.float32 or values.ndim != 2:
        raise KairosError(f"clip {name} is {values.dtype} {list(values.shape)}: float32 of two axes is required")
      if mask.dtype != np.bool_ or mask.shape != values.shape[:1]:
        raise KairosError(f"clip {name}_mask is {mask.dtype} {list(mask.shape)}: bool {[len(values)]} is required")
      if not np.isfinite(values).all():
        raise KairosError(f"clip {name} holds NaN or infinity: unknown entries are 0 with a False mask")
    if (did := self.executed) is not None and (
      did.dtype != np.float32 or did.shape != self.action.shape or not np.isfinite(did).all()
    ):
      raise KairosError(f"clip executed is {did.dtype} {list(did.shape)}: finite float32, as many as actions, required")
    for name in ("video_fps", "action_hz"):
      rate = getattr(self, name)
      if not isinstance(rate, int | float) or isinstance(rate, bool) or not (math.isfinite(rate) and rate > 0):
        raise KairosError(f"clip {name} is {rate!r}: a positive number of Hz is required")
    for name in _STRINGS:
      if not isinstance(getattr(self, name), str):
        raise KairosError(f"clip {name} is {getattr(self, name)!r}: a text is required")
    if not isinstance(self.paraphrases, tuple) or not all(isinstance(text, str) for text in self.paraphrases):
      raise KairosError(f"clip paraphrases is {self.paraphrases!r}: a tuple of texts is required")
    if not isinstance(self.provenance, Mapping):
      raise KairosError(f"clip provenance is {self.provenance!r}: a JSON object is required")

  @property
  def frames(self) -> int:
    """T, of every camera."""
    return self.latents.clip_frames if self.latents else len(next(iter(self.cameras.values())))


_STRINGS = ("embodiment", "source", "license", "caption", "instruction")
_ARRAYS = ("state", "action", "state_mask", "action_mask")
_DESCRIPTION = (*_STRINGS, "video_fps", "action_hz", "paraphrases", "provenance")
_CAMERA, _LATENTS, _EXECUTED = "camera/", "latents", "executed"


def encode(clip: Clip) -> bytes:
  """A clip as safetensors bytes: arrays as they are, and all else in one JSON text, the uint8 tensor `description`.

  Raises:
    KairosError: the provenance is not JSON, or the record would be too large.
  """
  described = {
    "version": VERSION,
    **{name: getattr(clip, name) for name in _DESCRIPTION},
    "cameras": list(clip.cameras),
  }
  if of := clip.latents:
    described[_LATENTS] = {"start": of.start, "clip_frames": of.clip_frames, "encoding": list(of.encoding)}
  try:
    description = json.dumps(described, sort_keys=True, allow_nan=False).encode()
  except (TypeError, ValueError) as error:
    raise KairosError(f"clip provenance is not JSON: {error}") from error
  arrays = {name: getattr(clip, name) for name in _ARRAYS}
  arrays |= {_CAMERA + name: video for name, video in clip.cameras.items()}
  arrays |= {_LATENTS: clip.latents.values} if clip.latents else {}
  arrays |= {} if clip.executed is None else {_EXECUTED: clip.executed}
  if len(description) > _MAX_DESCRIPTION or sum(array.nbytes for array in arrays.values()) > MAX_BYTES - 2**22:
    raise KairosError(
      f"clip of {clip.frames} frames is too large for a record: at most {MAX_BYTES} bytes, "
      f"{_MAX_DESCRIPTION} of them texts and provenance"
    )
  tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
  return save({**tensors, "description": np.frombuffer(description, np.uint8)})


def decode(record: bytes) -> Clip:
  """The clip `encode` wrote.

  Raises:
    KairosError: not safetensors, of another version, too large, a field is missing or unknown, or the schema is broken.
  """
  if len(record) > MAX_BYTES:
    raise KairosError(f"record of {len(record)} bytes is too large: at most {MAX_BYTES}")
  try:
    tensors = load(record)
  except (SafetensorError, ValueError, KeyError, TypeError) as error:
    raise KairosError(f"record of {len(record)} bytes is not safetensors: {error}") from error
  description = _description(tensors)
  fields: dict[str, Any] = {name: description[name] for name in _DESCRIPTION}
  fields["paraphrases"] = tuple(fields["paraphrases"])
  names = description["cameras"]
  expected = {"description", *_ARRAYS, *(f"{_CAMERA}{name}" for name in names), *({_LATENTS} & description.keys())}
  expected |= {_EXECUTED} & tensors.keys()
  if tensors.keys() != expected:
    raise KairosError(f"record fields differ from the schema: {sorted(tensors.keys() ^ expected)} missing or unknown")
  fields[_EXECUTED] = tensors.get(_EXECUTED)
  fields |= {name: tensors[name] for name in _ARRAYS}
  if _LATENTS in description:
    fields[_LATENTS] = _latents(tensors[_LATENTS], description[_LATENTS])
  return Clip(**fields, cameras={name: tensors[_CAMERA + name] for name in names})


def check_version(version: object, what: str) -> None:
  """KairosError unless a record or a manifest is of this schema."""
  if version != VERSION:
    raise KairosError(
      f"{what} is of schema version {version}, {VERSION} is required: build the dataset again, for the embedded ones "
      "with `kairos data build`"
    )


def _latents(values: np.ndarray, described: Any) -> Latents:
  """Of a record."""
  try:
    return Latents(values, described["start"], described["clip_frames"], encoding(described["encoding"]))
  except (KeyError, TypeError) as error:
    raise KairosError(f"record latents are {str(described)[:80]}: start, clip_frames and encoding required") from error


def encoding(values: Any) -> Encoding:
  """What JSON made of an encoding.

  Raises:
    KairosError: it is none.
  """
  kinds = (str, float, int, int, int)
  if not isinstance(values, list | tuple) or [type(value) for value in values] != list(kinds):
    raise KairosError(f"not the encoding of latents: {str(values)[:80]}")
  return Encoding(*values)


def _description(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """The JSON of a record, complete and of this version."""
  if "description" not in tensors:
    if {"fps", "video"} <= tensors.keys():
      check_version(1, "record")
    raise KairosError("record has no description: it is not of this project, or its bytes are damaged")
  text = tensors["description"]
  if text.dtype != np.uint8 or text.ndim != 1 or len(text) > _MAX_DESCRIPTION:
    raise KairosError(
      f"record description is {text.dtype} {list(text.shape)}: at most {_MAX_DESCRIPTION} bytes of JSON"
    )
  try:
    description = json.loads(text.tobytes().decode())
  except (ValueError, RecursionError) as error:
    raise KairosError(f"record description is not JSON: {error}") from error
  if not isinstance(description, dict):
    raise KairosError("record description is not a JSON object")
  check_version(description.get("version"), "record")
  expected = {"version", "cameras", *_DESCRIPTION}
  if description.keys() - {_LATENTS} != expected:
    different = sorted((description.keys() - {_LATENTS}) ^ expected)
    raise KairosError(f"record description differs from the schema: {different} missing or unknown")
  for name in ("cameras", "paraphrases"):
    if not isinstance(description[name], list) or not all(isinstance(text, str) for text in description[name]):
      raise KairosError(f"record {name} is not a list of texts")
  return description
