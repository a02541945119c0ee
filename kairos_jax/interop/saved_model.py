"""A trained world-action model as a folder of two plain files: model.json and weights.safetensors.

A model that was converted for many devices has an Orbax checkpoint, the folder "weights", in the place of the second.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.normalize import EmbodimentNormalizer
from kairos_jax import assembly, files, shards
from kairos_jax.errors import KairosError
from kairos_jax.interfaces import ContextEncoder, VideoCodec
from kairos_jax.interop import orbax_weights
from kairos_jax.interop.orbax_weights import Arrays
from kairos_jax.model import ActionConfig, VideoConfig, WorldActionConfig, low_bit
from kairos_jax.model.low_bit import LowBit
from kairos_jax.model.world_action import init_params

Params = dict[str, Any]

VERSION = 2
FILES = ("model.json", "weights.safetensors")  # or, for the weights, an Orbax checkpoint
FLOATS = ("float32", "bfloat16", "float16")  # types that towers may be stored in


@dataclasses.dataclass(frozen=True)
class SavedModel:
  """All that is needed to run a model.

  Attributes:
    codec, encoder: descriptions of the parts around the towers; their parameters are in `params`.
    params: {"video", "action", "bridge", "codec"}, float32 where they were trained here; without "action" where there
      is no action tower.
    low_bit: how the towers' matrices are kept, if not whole; see `model.low_bit`.
    video_fps: of the video it was trained on, Hz.
    frame_size: (height, width) of that video, pixels.
    clip_frames: length of a training clip.
    action_horizon: length of an action chunk.
    embodiments: by name, the robots that it drives and what maps their units to the model's; the first is the default.
    video_times, action_times: the few steps of a tower that was distilled, timesteps before the shift; empty for one
      that takes any number of steps.
    max_delay: most actions at a chunk's begin that it was trained to be given, see `flow.chunking`; 0: none.
  """

  model_config: WorldActionConfig
  codec: VideoCodec
  encoder: ContextEncoder
  params: Params
  video_fps: float
  frame_size: tuple[int, int]
  clip_frames: int
  action_horizon: int
  embodiments: dict[str, EmbodimentNormalizer]
  max_delay: int = 0
  video_times: tuple[float, ...] = ()
  action_times: tuple[float, ...] = ()
  low_bit: LowBit | None = None


def save(folder: str | Path, saved: SavedModel) -> None:
  """Writes the folder; model.json comes last, so that a folder without it is known to be unfinished.

  The parameters of an encoder that comes trained, and was not trained further, are not written: the encoder's own
  description says where they lie, and their hash which ones they are.
  """
  folder, params, description = Path(folder), jax.device_get(saved.params), _description(saved)
  if saved.encoder.comes_trained:
    given = _hash(params["bridge"])
    if given == _hash(saved.encoder.init(jax.random.key(0))):
      description["bridge_weights"] = given
      params = {name: part for name, part in params.items() if name != "bridge"}
  flat = low_bit.flatten(params)
  packed = {name: low_bit.pack(x) if x.dtype == jnp.int4 else x for name, x in flat.items()}
  files.write_safetensors(folder / "weights.safetensors", packed)
  files.write_json(folder / "model.json", description)


def describe(folder: str | Path, saved: SavedModel, bridge_weights: str | None) -> None:
  """Writes model.json beside weights that lie there already.

  Args:
    bridge_weights: see `hash_of`; None where the bridge's parameters are among the weights.
  """
  known = {} if bridge_weights is None else {"bridge_weights": bridge_weights}
  files.write_json(Path(folder) / "model.json", _description(saved) | known)


def content_hash(saved: SavedModel) -> str:
  """SHA-256 over the description and over names, types, shapes and numbers of all weights: what names a model."""
  return _hash(saved.params, json.dumps(_description(saved), sort_keys=True))


def load(folder: str | Path) -> SavedModel:
  """Reads what `save` wrote, from its folder or from the run's folder around it.

  Raises:
    KairosError: there is no finished model, a file of it is damaged, or a weight is missing, unknown or of another
      shape or type than the description says; it is named.
  """
  folder, saved, bridge_hash = outline(folder)
  params = _read_weights(folder, saved, bridge=bridge_hash is None)
  if bridge_hash is not None:
    params["bridge"] = saved.encoder.init(jax.random.key(0))
    if (found := _hash(params["bridge"])) != bridge_hash:
      where = assembly.describe(saved.encoder)
      raise KairosError(f"{folder} goes with the weights {bridge_hash[:12]} of its bridge; {found[:12]} lie at {where}")
  return dataclasses.replace(saved, params=params)


def outline(folder: str | Path) -> tuple[Path, SavedModel, str | None]:
  """All but the parameters: the folder that holds the model, what its description says, and its bridge's hash.

  The hash is None where the bridge's parameters are among the weights; see `describe`.

  Raises:
    KairosError: there is no finished model, or its description is damaged.
  """
  folder = Path(folder)
  if not (folder / "model.json").exists() and (folder / "model").is_dir():
    folder = folder / "model"
  for name in FILES:
    if not (folder / name).exists() and not (name == FILES[1] and (folder / orbax_weights.FOLDER).is_dir()):
      raise KairosError(f"{folder} holds no finished model: {name} is missing")
  try:
    description = json.loads((folder / "model.json").read_text())
    if (version := description.get("version", 1)) != VERSION:
      raise KairosError(f"{folder} holds a model of version {version}; this program reads {VERSION}: train it again")
    model_config = WorldActionConfig(
      video=_from_json(VideoConfig, description["video"]),
      action=description["action"] and _from_json(ActionConfig, description["action"]),
    )
    saved = SavedModel(
      model_config=model_config,
      codec=assembly.make_codec(description["codec"]),
      encoder=assembly.make_encoder(description["bridge"]),
      params={},
      **{name: description[name] for name in _PLAIN if name != "frame_size"},
      frame_size=tuple(description["frame_size"]),
      embodiments={name: EmbodimentNormalizer.from_json(x) for name, x in description["embodiments"].items()},
      max_delay=description.get("max_delay", 0),
      video_times=tuple(description.get("video_times", ())),
      action_times=tuple(description.get("action_times", ())),
      low_bit=_known(LowBit(**description["low_bit"])) if "low_bit" in description else None,
    )
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise KairosError(f"{folder} is not a readable model: model.json: {error!r}") from None
  return folder, saved, description.get("bridge_weights")


def _hash(params: Params, begin: str = "") -> str:
  flat = sorted(low_bit.flatten(params).items())
  arrays = ((name, np.ascontiguousarray(value)) for name, value in flat)
  return hash_of(((name, x.dtype, x.shape, (x,)) for name, x in arrays), begin)


def hash_of(parts: Iterable[tuple[str, np.dtype, tuple[int, ...], Iterable[np.ndarray]]], begin: str = "") -> str:
  """SHA-256 of parameters that come one after the other in the order of their names, each in pieces."""
  digest = hashlib.sha256(begin.encode())
  for name, dtype, shape, pieces in parts:
    digest.update(f"{name} {np.dtype(dtype).name} {shape} ".encode())
    for piece in pieces:
      digest.update(np.ascontiguousarray(piece, dtype).reshape(-1).view(np.uint8))
  return digest.hexdigest()


_PLAIN = ("video_fps", "frame_size", "clip_frames", "action_horizon")


def _description(saved: SavedModel) -> dict[str, Any]:
  """Everything but the weights, as JSON values."""
  action = saved.model_config.action
  return {
    "version": VERSION,
    "video": _to_json(saved.model_config.video),
    "action": None if action is None else _to_json(action),
    "codec": assembly.describe(saved.codec),
    "bridge": assembly.describe(saved.encoder),
    "embodiments": {name: normalizer.to_json() for name, normalizer in saved.embodiments.items()},
    **{name: getattr(saved, name) for name in _PLAIN},
    **({"max_delay": saved.max_delay} if saved.max_delay else {}),
    **{name: times for name in ("video_times", "action_times") if (times := getattr(saved, name))},
    **({} if saved.low_bit is None else {"low_bit": saved.low_bit._asdict()}),
  }


def _known(kept: LowBit) -> LowBit:
  if kept.kind not in low_bit.KINDS:
    raise ValueError(f"low_bit.kind is {kept.kind!r}; allowed: {', '.join(low_bit.KINDS)}")
  return kept


def _read_weights(folder: Path, saved: SavedModel, bridge: bool) -> Params:
  """The parameters, each of its shape and type; those of the bridge if they are there.

  They are read one after the other, so that none is in memory twice. Towers may be stored in fewer bits than the
  float32 that they train in, as the released ones are.
  """
  shapes = {
    **jax.eval_shape(lambda: init_params(saved.model_config, jax.random.key(0))),
    "codec": saved.codec.param_shapes(),
    **({"bridge": saved.encoder.param_shapes()} if bridge else {}),
  }
  if saved.low_bit is not None:
    shapes = low_bit.quantized_shapes(shapes, saved.low_bit)
  wanted = low_bit.flatten(shapes)
  path, tensors = stored_weights(folder)
  found = tensors.found
  for name, shape in wanted.items():
    if name not in found:
      raise KairosError(f"{path} lacks the weight {name!r}, {shape.dtype} {shape.shape}")
    if (found[name].shape, found[name].dtype.name) not in _allowed(name, shape, saved.low_bit):
      there = f"{found[name].dtype} {found[name].shape}"
      raise KairosError(f"{path}: weight {name!r} is {there}; the model needs {shape.dtype} {shape.shape}")
  if unknown := sorted(set(found) - set(wanted)):
    raise KairosError(f"{path} holds {len(unknown)} weights that the model has no place for, first {unknown[0]!r}")
  return low_bit.unflatten({name: _array(tensors[name], shape) for name, shape in wanted.items()})


def _allowed(name: str, shape: jax.ShapeDtypeStruct, kept: LowBit | None) -> list[tuple[tuple[int, ...], str]]:
  """Shapes and types in which a weight may be stored; numbers of 4 bits are two a byte."""
  if shape.dtype == jnp.int4:
    return [((-(-math.prod(shape.shape) // 2),), "uint8")]
  in_towers = name.split("/")[0] in ("video", "action") and kept is None
  return [(shape.shape, dtype) for dtype in (FLOATS if in_towers else (np.dtype(shape.dtype).name,))]


def _array(stored: Any, shape: jax.ShapeDtypeStruct) -> jax.Array:
  return jnp.asarray(low_bit.unpack(stored, shape.shape) if shape.dtype == jnp.int4 else stored)


def stored_weights(folder: Path) -> tuple[Path, shards.Tensors | Arrays]:
  """Where the weights of a saved model lie, and each by its "/"-joined name, read when it is asked for."""
  if (path := folder / orbax_weights.FOLDER).is_dir():
    return path, Arrays(path)
  path = folder / FILES[1]
  return path, shards.Tensors(shards.list_tensors([path]))


def _to_json(config: VideoConfig | ActionConfig) -> dict[str, Any]:
  return {**dataclasses.asdict(config), "dtype": jnp.dtype(config.dtype).name}


def _from_json(kind: type, values: dict[str, Any]) -> Any:
  lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
  return kind(**{**values, **lists, "dtype": jnp.dtype(values["dtype"]).type})
