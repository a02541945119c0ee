"""Runs an exported policy with nothing but JAX, numpy and flatbuffers: this file alone, copied beside the artifacts.

Example::

  policy = load("runs/exported")
  stream = policy.prefill(frames, "touch the ball that has the color of the bar")
  actions = policy.act(stream, state, seed=7)  # in the robot's units
  stream = policy.extend(stream, new_frames)  # as many as the manifest says

The folder holds manifest.json, weights.safetensors and a program for each call and platform. Every file's SHA-256 is in
the manifest and is checked. Programs are data that XLA compiles; nothing in the folder is run as Python.
"""

import hashlib
import json
import math
import pathlib
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

VERSION = 1
CALLS = ("prefill", "extend", "act")
_TYPES = {
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(jnp.bfloat16),
  "I32": np.dtype(np.int32),
  "I8": np.dtype(np.int8),
  "U8": np.dtype(np.uint8),
  "U32": np.dtype(np.uint32),
  "BOOL": np.dtype(np.bool_),
}


class Policy:
  """One episode's policy, as it was exported.

  Attributes:
    manifest: sizes, cameras, names and units; see manifest.json.
  """

  def __init__(self, manifest: dict[str, Any], params: list[jax.Array], programs: dict[str, Any]):
    """Use `load`."""
    self.manifest, self._params = manifest, params
    # A stream is replaced by the one after it, so that its memory can be written in place.
    donated: dict[str, dict[str, Any]] = {"extend": dict(donate_argnums=1)}
    self._calls = {name: jax.jit(program.call, **donated.get(name, {})) for name, program in programs.items()}

  def prefill(self, frames: np.ndarray, prompt: str) -> Any:
    """Begins a stream with its first frames, uint8, and a prompt that was exported.

    Raises:
      ValueError: another shape of frames, or another prompt.
    """
    prompts = self.manifest["prompts"]
    if prompt not in prompts:
      raise ValueError(f"prompt is {prompt!r}; exported were {', '.join(map(repr, prompts))}")
    tokens = [np.asarray(leaf["values"], leaf["dtype"]) for leaf in prompts[prompt]]
    return self._calls["prefill"](self._params, self._frames("prefill", frames), tokens)

  def extend(self, stream: Any, frames: np.ndarray) -> Any:
    """The stream with new frames, uint8, as its history; the old one must not be used again.

    Raises:
      ValueError: another shape of frames.
    """
    return self._calls["extend"](self._params, stream, self._frames("extend", frames))

  def act(self, stream: Any, state: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """The next chunk of actions in the robot's units; `seed` is of the noise, from 0 to 2**64 - 1.

    Raises:
      ValueError: another width of state, or a number that is not finite.
    """
    state, width = np.asarray(state, np.float32), self.manifest["state_dim"]
    if state.shape != (width,) or not np.isfinite(state).all():
      raise ValueError(f"state is {state.tolist()}; it must be {width} finite numbers")
    words = np.asarray([[seed >> 32, seed & 0xFFFFFFFF]], np.uint32)
    return np.asarray(self._calls["act"](self._params, stream, state[None], words))[0]

  def _frames(self, call: str, frames: np.ndarray) -> np.ndarray:
    wanted = tuple(self.manifest["frames"][call])
    frames = np.asarray(frames)
    if frames.shape != wanted or frames.dtype != np.uint8:
      raise ValueError(f"frames are {frames.dtype} {frames.shape}; {call} takes uint8 {wanted}")
    return frames[None]


def load(folder: str | pathlib.Path, platform: str | None = None) -> Policy:
  """Reads an exported policy.

  Args:
    folder: that `kairos export` wrote.
    platform: "cpu", "cuda" or "tpu"; None is that of JAX's first device.

  Raises:
    ValueError: a file is missing, damaged, or of another version, or nothing was exported for the platform.
  """
  folder = pathlib.Path(folder)
  try:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise ValueError(f"{folder} holds no exported policy: {error}") from error
  if manifest.get("version") != VERSION:
    raise ValueError(f"{folder} is of version {manifest.get('version')}; this loader reads {VERSION}: export again")
  here = platform or {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
  if here not in manifest["platforms"]:
    raise ValueError(f"{folder} has programs for {', '.join(manifest['platforms'])}; none for {here}")
  files = {name: f"{name}.{here}.bin" for name in CALLS}
  read = {name: _checked(folder, manifest, file) for name, file in files.items()}
  programs = {name: jax.export.deserialize(bytearray(data)) for name, data in read.items()}
  return Policy(manifest, _weights(_checked(folder, manifest, "weights.safetensors"), manifest["weights"]), programs)


def _checked(folder: pathlib.Path, manifest: dict[str, Any], name: str) -> bytes:
  """A file's bytes. Raises ValueError if they are not those that were exported."""
  try:
    data = (folder / name).read_bytes()
  except OSError as error:
    raise ValueError(f"{folder / name} cannot be read: {error}") from error
  if hashlib.sha256(data).hexdigest() != manifest["sha256"].get(name):
    raise ValueError(f"{folder / name} is not the file that was exported: its SHA-256 is another")
  return data


def _weights(data: bytes, order: list[dict[str, str]]) -> list[jax.Array]:
  """The parameters in the order in which the programs take them."""
  length = int.from_bytes(data[:8], "little")
  header, begin = json.loads(data[8 : 8 + length]), 8 + length
  arrays = []
  for entry in order:
    about = header[entry["name"]]
    dtype, count = _TYPES[about["dtype"]], math.prod(about["shape"])
    array = np.frombuffer(data, dtype, count, begin + about["data_offsets"][0]).reshape(about["shape"])
    arrays.append(jnp.asarray(array).astype(entry["dtype"]))  # int4 lies in the file as int8
  return arrays
