"""A trained world-action model as a folder of two plain files: model.json and weights.safetensors."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.normalize import EmbodimentNormalizer
from kairos_jax import assembly, files
from kairos_jax.errors import KairosError
from kairos_jax.interfaces import ContextEncoder, VideoCodec
from kairos_jax.model import ActionConfig, VideoConfig, WorldActionConfig, low_bit
from kairos_jax.model.low_bit import LowBit
from kairos_jax.model.world_action import init_params

Params = dict[str, Any]

VERSION = 2
FILES = ("model.json", "weights.safetensors")


@dataclasses.dataclass(frozen=True)
class SavedModel:
  """All that is needed to run a model.

  Attributes:
    codec, encoder: descriptions of the parts around the towers; their parameters are in `params`.
    params: {"video", "action", "bridge", "codec"}, float32; without "action" where there is no action tower.
    low_bit: how the towers' matrices are kept, if not whole; see `model.low_bit`.
    video_fps: of the video it was trained on, Hz.
    frame_size: (height, width) of that video, pixels.
    clip_frames: length of a training clip.
    action_horizon: length of an action chunk.
    embodiments: by name, the robots that it drives and what maps their units to the model's; the first is the default.
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


def content_hash(saved: SavedModel) -> str:
  """SHA-256 over the description and over names, types, shapes and numbers of all weights: what names a model."""
  return _hash(saved.params, json.dumps(_description(saved), sort_keys=True))


def load(folder: str | Path) -> SavedModel:
  """Reads what `save` wrote, from its folder or from the run's folder around it.

  Raises:
    KairosError: there is no finished model, a file of it is damaged, or a weight is missing, unknown or of another
      shape or type than the description says; it is named.
  """
  folder = Path(folder)
  if not (folder / "model.json").exists() and (folder / "model").is_dir():
    folder = folder / "model"
  for name in FILES:
    if not (folder / name).exists():
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
      low_bit=_known(LowBit(**description["low_bit"])) if "low_bit" in description else None,
    )
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise KairosError(f"{folder} is not a readable model: model.json: {error!r}") from None
  bridge_hash = description.get("bridge_weights")
  params = _read_weights(folder / "weights.safetensors", saved, bridge=bridge_hash is None)
  if bridge_hash is not None:
    params["bridge"] = saved.encoder.init(jax.random.key(0))
    if (found := _hash(params["bridge"])) != bridge_hash:
      where = assembly.describe(saved.encoder)
      raise KairosError(f"{folder} goes with the weights {bridge_hash[:12]} of its bridge; {found[:12]} lie at {where}")
  return dataclasses.replace(saved, params=params)


def _hash(params: Params, begin: str = "") -> str:
  digest = hashlib.sha256(begin.encode())
  for name, value in sorted(low_bit.flatten(params).items()):
    array = np.ascontiguousarray(value)
    digest.update(f"{name} {array.dtype.name} {array.shape} ".encode())
    digest.update(array.reshape(-1).view(np.uint8))
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
    **({} if saved.low_bit is None else {"low_bit": saved.low_bit._asdict()}),
  }


def _known(kept: LowBit) -> LowBit:
  if kept.kind not in low_bit.KINDS:
    raise ValueError(f"low_bit.kind is {kept.kind!r}; allowed: {', '.join(low_bit.KINDS)}")
  return kept


def _read_weights(path: Path, saved: SavedModel, bridge: bool) -> Params:
  """The parameters, each of the shape and type that the description gives it; those of the bridge if they are there."""
  shapes = {
    **jax.eval_shape(lambda: init_params(saved.model_config, jax.random.key(0))),
    "codec": saved.codec.param_shapes(),
    **({"bridge": saved.encoder.param_shapes()} if bridge else {}),
  }
  if saved.low_bit is not None:
    shapes = low_bit.quantized_shapes(shapes, saved.low_bit)
  wanted, found = low_bit.flatten(shapes), files.read_safetensors(path)
  for name, shape in wanted.items():
    if name not in found:
      raise KairosError(f"{path} lacks the weight {name!r}, {shape.dtype} {shape.shape}")
    if shape.dtype == jnp.int4 and found[name].shape == (-(-math.prod(shape.shape) // 2),):
      found[name] = low_bit.unpack(found[name], shape.shape)
    if (found[name].shape, found[name].dtype) != (shape.shape, shape.dtype):
      there = f"{found[name].dtype} {found[name].shape}"
      raise KairosError(f"{path}: weight {name!r} is {there}; the model needs {shape.dtype} {shape.shape}")
  if unknown := sorted(set(found) - set(wanted)):
    raise KairosError(f"{path} holds {len(unknown)} weights that the model has no place for, first {unknown[0]!r}")
  return low_bit.unflatten({name: jnp.asarray(value) for name, value in found.items()})


def _to_json(config: VideoConfig | ActionConfig) -> dict[str, Any]:
  return {**dataclasses.asdict(config), "dtype": jnp.dtype(config.dtype).name}


def _from_json(kind: type, values: dict[str, Any]) -> Any:
  lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
  return kind(**{**values, **lists, "dtype": jnp.dtype(values["dtype"]).type})
