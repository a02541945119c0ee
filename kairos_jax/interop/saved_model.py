"""A trained world-action model as a folder of plain files: model.json, weights.safetensors, codec.safetensors."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from data_pipelines.normalize import Normalizer
from kairos_jax import codec as codec_lib
from kairos_jax import files
from kairos_jax.bridge import TextBridgeConfig
from kairos_jax.codec import PcaCodec
from kairos_jax.errors import KairosError
from kairos_jax.model import ActionConfig, VideoConfig, WorldActionConfig

Params = dict[str, Any]

FILES = ("model.json", "weights.safetensors", "codec.safetensors")


@dataclasses.dataclass(frozen=True)
class SavedModel:
  """All that is needed to run a model.

  Attributes:
    params: {"video", "bridge", "action"}, float32.
    fps: of the video it was trained on, Hz; one action a frame.
    clip_frames: length of a training clip.
    action_horizon: length of an action chunk.
    action_normalizer, state_normalizer: what maps native units to the model's.
  """

  model_config: WorldActionConfig
  bridge: TextBridgeConfig
  codec: PcaCodec
  params: Params
  fps: float
  clip_frames: int
  action_horizon: int
  action_normalizer: Normalizer
  state_normalizer: Normalizer


def save(folder: str | Path, saved: SavedModel) -> None:
  """Writes the folder; model.json comes last, so that a folder without it is known to be unfinished."""
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  flat = {"/".join(path): np.asarray(value) for path, value in flatten_dict(saved.params).items()}
  with files.replaced(folder / "weights.safetensors") as partial:
    save_file(flat, partial)
  codec_lib.save(saved.codec, folder / "codec.safetensors")
  description = {
    "video": _to_json(saved.model_config.video),
    "action": saved.model_config.action and _to_json(saved.model_config.action),
    "bridge": _to_json(saved.bridge),
    "normalizers": {name: json.loads(getattr(saved, f"{name}_normalizer").to_json()) for name in ("action", "state")},
    **{name: getattr(saved, name) for name in ("fps", "clip_frames", "action_horizon")},
  }
  with files.replaced(folder / "model.json") as partial:
    Path(partial).write_text(json.dumps(description, indent=2) + "\n")


def load(folder: str | Path) -> SavedModel:
  """Reads what `save` wrote, from its folder or from the run's folder around it.

  Raises:
    KairosError: there is no finished model, or a file of it is damaged.
  """
  folder = Path(folder)
  if not (folder / "model.json").exists() and (folder / "model").is_dir():
    folder = folder / "model"
  for name in FILES:
    if not (folder / name).exists():
      raise KairosError(f"{folder} holds no finished model: {name} is missing")
  try:
    description = json.loads((folder / "model.json").read_text())
    flat = load_file(folder / "weights.safetensors")
    action, state = (Normalizer.from_json(json.dumps(description["normalizers"][k])) for k in ("action", "state"))
    model_config = WorldActionConfig(
      video=_from_json(VideoConfig, description["video"]),
      action=description["action"] and _from_json(ActionConfig, description["action"]),
    )
    return SavedModel(
      model_config=model_config,
      bridge=TextBridgeConfig(**description["bridge"]),
      codec=codec_lib.load(folder / "codec.safetensors"),
      params=unflatten_dict({tuple(name.split("/")): jnp.asarray(value) for name, value in flat.items()}),
      **{name: description[name] for name in ("fps", "clip_frames", "action_horizon")},
      action_normalizer=action,
      state_normalizer=state,
    )
  except (SafetensorError, ValueError, TypeError, KeyError) as error:
    raise KairosError(f"{folder} is not a readable model: {error}") from None


def _to_json(config: Any) -> dict[str, Any]:
  return {**dataclasses.asdict(config), **({"dtype": jnp.dtype(config.dtype).name} if hasattr(config, "dtype") else {})}


def _from_json(kind: type, values: dict[str, Any]) -> Any:
  lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
  return kind(**{**values, **lists, "dtype": jnp.dtype(values["dtype"]).type})
