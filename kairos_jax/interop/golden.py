"""Golden cases: inputs and outputs of the reference, one pair `<case>.json` and `<case>.safetensors` each."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kairos_jax import files
from kairos_jax.errors import KairosError
from kairos_jax.interop import reference_names
from kairos_jax.model import ActionConfig, VideoConfig, WorldActionConfig

RULES: dict[str, Literal["frame", "token"]] = {"flex": "frame", "flash": "token"}


@dataclasses.dataclass(frozen=True)
class GoldenCase:
  """One case: what was run (`meta`) and what went in and came out (`tensors`)."""

  path: Path
  meta: dict[str, Any]
  tensors: dict[str, np.ndarray]

  @property
  def name(self) -> str:
    return self.meta["case"]

  def part(self, prefix: str) -> dict[str, np.ndarray]:
    """The tensors below `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

  def sibling(self, name: str) -> "GoldenCase":
    """Another case of the same folder, such as the weights that several share."""
    return read_case(self.path.with_name(f"{name}.json"))

  def weights(self, overrides: dict[str, Any] | None = None) -> tuple[WorldActionConfig, dict[str, Any]]:
    """The model that the case ran, with the changes it names, and its parameters."""
    weights = self.sibling(self.meta["weights"].split()[0])
    config = model_config(weights.meta, overrides or {})
    return config, reference_names.from_reference(weights.tensors, config)


def read_case(path: Path) -> GoldenCase:
  """Reads one pair.

  Raises:
    KairosError: either file is missing or is not what it should be.
  """
  try:
    meta = json.loads(path.read_text())
  except FileNotFoundError as error:
    raise KairosError(f"golden case {path.stem}: {path} does not exist") from error
  except ValueError as error:
    raise KairosError(f"golden case {path.stem}: {path} is not readable JSON: {error}") from error
  tensors = files.read_safetensors(path.with_suffix(".safetensors"))
  if "case" not in meta:
    raise KairosError(f"{path} is no golden case: it has no 'case'")
  return GoldenCase(path, meta, tensors)


def find_cases(paths: list[str]) -> Iterator[Path]:
  """The cases that the paths name: files (.json, .safetensors, or without either) or folders of them.

  Raises:
    KairosError: a path is neither, or a folder holds no case.
  """
  for path in map(Path, paths):
    if path.is_dir():
      found = sorted(p for p in path.glob("*.json") if p.with_suffix(".safetensors").exists())
      if not found:
        raise KairosError(f"{path} holds no golden case (a .json beside a .safetensors)")
      yield from found
    else:
      candidate = path.with_suffix(".json") if path.suffix in (".json", ".safetensors") else Path(f"{path}.json")
      if not candidate.exists():
        raise KairosError(f"golden case {path} does not exist")
      yield candidate


def model_config(meta: dict[str, Any], overrides: dict[str, Any]) -> WorldActionConfig:
  """The reference's constructor arguments as our config: each tower has sizes of its own.

  Args:
    overrides: replace arguments of the video tower.

  Raises:
    KairosError: towers that cannot stand beside each other; see `WorldActionConfig`.
  """
  video = {**(_first_tower(meta["dit"]) if "dit" in meta else meta["video_dit"]), **overrides}
  action = meta.get("action_dit")
  return WorldActionConfig(
    video=VideoConfig(
      dim=video["dim"],
      ffn_dim=video["ffn_dim"],
      heads=video["num_heads"],
      layers=tuple(video["layers_settings"]),
      window_size=video.get("window_size", 3),
      dilation=max(video["dilated_lengths"]),
      rule=RULES[video.get("attn_method", "flash")],
      history_sees_future=not video.get("restrict_history_query_to_history", True),
      all_see_history=video.get("all_atten_history", False),
      float16_rope="dit" in meta and video.get("float16_rope", True),
      channels=video["in_dim"],
      patch=tuple(video["patch_size"]),
      **_sizes(video),
    ),
    action=action
    and ActionConfig(
      dim=action["dim"],
      attention_dim=action.get("attn_hidden_dim") or action["dim"],
      ffn_dim=action["ffn_dim"],
      heads=action["num_heads"],
      action_dim=action["action_head_cfg"]["action_dim"],
      state_dim=action["action_head_cfg"]["action_state_dim"],
      **_sizes(action),
    ),
  )


def _first_tower(dit: dict[str, Any]) -> dict[str, Any]:
  """The first models' arguments (V1) in the words of the later ones: every fourth layer is a gated delta net."""
  lengths = dit["dilated_lengths"]
  if len(wide := {length for length in lengths[:3] if length > 1}) > 1:
    raise KairosError(f"dilated_lengths is {lengths}; allowed: one length above 1")
  group = [*("DSWA" if length > 1 else "SWA" for length in lengths[:3]), "GATED"]
  layers = [group[i % 4] for i in range(dit["num_layers"])]
  return {**dit, "layers_settings": layers, "dilated_lengths": list(wide or {1}), "attn_method": "flash"}


def _sizes(tower: dict[str, Any]) -> dict[str, Any]:
  return {name: tower[name] for name in ("freq_dim", "text_dim", "eps")}
