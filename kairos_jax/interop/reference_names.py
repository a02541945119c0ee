"""Parameters <-> the reference's state dict: every tensor has one name there and one place here.

Both directions only rename, transpose and stack, so a round trip is bit-exact.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from einops import rearrange
from flax.traverse_util import flatten_dict, unflatten_dict

from kairos_jax import files
from kairos_jax.errors import KairosError
from kairos_jax.model.config import WorldActionConfig
from kairos_jax.model.world_action import init_params

Tensors = Mapping[str, np.ndarray]
Params = dict[str, Any]

# Ours -> theirs, tried in order on "/"-joined paths below a tower or block.
_RENAMES = [
  (r"^time/embedding/", "time_embedding/"),
  (r"^time/projection/", "time_projection/1/"),
  (r"^head/(?=kernel|bias)", "head/head/"),
  (r"^head_modulation$", "head/modulation"),
  (r"/up/", "/0/"),
  (r"/down/", "/2/"),
  (r"_conv$", "_conv1d/weight"),
  (r"/(kernel|scale)$", "/weight"),
]


def reference_name(path: str) -> str:
  """Name below its tower or block, e.g. "ffn/up/kernel" -> "ffn.0.weight"."""
  for ours, theirs in _RENAMES:
    path = re.sub(ours, theirs, path)
  return path.replace("/", ".")


def _layout(path: str, patch: tuple[int, int, int]) -> tuple[Callable, Callable]:
  """(to the reference, from the reference) for one tensor of one layer."""
  x, y, z = patch
  if path.endswith("patch_embedding/kernel"):
    return (
      lambda a: rearrange(a, "(x y z c) d -> d c x y z", x=x, y=y, z=z),
      lambda a: rearrange(a, "d c x y z -> (x y z c) d"),
    )
  if path.endswith("/kernel"):
    return np.transpose, np.transpose
  if path.endswith("_conv"):
    return lambda a: a.T[:, None, :], lambda a: a[:, 0, :].T
  if path.endswith("modulation"):
    return lambda a: a[None], lambda a: a[0]
  return (lambda a: a), (lambda a: a)


def _places(config: WorldActionConfig, path: tuple[str, ...]) -> tuple[str, list[str]]:
  """Where a parameter lies: (path below its tower or block, one reference name per layer group, or a single one)."""
  tower, *rest = path
  prefix = {"video": "video_dit.", "action": "action_dit."}[tower]
  if rest[0] == "groups":
    layer, size = int(rest[1].removeprefix("layer_")), len(config.video.group)
    local = "/".join(rest[2:])
    name = reference_name(local)
    return local, [f"{prefix}blocks.{g * size + layer}.{name}" for g in range(config.video.groups)]
  local = "/".join(rest)
  name = reference_name(local)
  # The action tower's head is a plain Linear; the video tower's sits beside a modulation, one level down.
  return local, [prefix + (name.replace("head.head.", "head.") if tower == "action" else name)]


def layer_names(path: tuple[str, ...], config: WorldActionConfig) -> list[str]:
  """The reference's names of a parameter of the towers' layers, one for each layer group."""
  return _places(config, path)[1]


def to_reference(params: Params, config: WorldActionConfig) -> dict[str, np.ndarray]:
  """Parameters as the reference's state dict."""
  tensors = {}
  for path, value in flatten_dict(params).items():
    local, names = _places(config, path)
    out, _ = _layout("/" + local, config.video.patch)
    values = np.asarray(value) if path[1] == "groups" else np.asarray(value)[None]
    tensors.update({name: np.ascontiguousarray(out(v)) for name, v in zip(names, values, strict=True)})
  return tensors


def from_reference(tensors: Tensors, config: WorldActionConfig) -> Params:
  """The reference's state dict as parameters, in float32.

  Raises:
    KairosError: a tensor is missing, unknown, or of another shape than `config` says; it is named.
  """
  tensors = {_without_wrapper(name): value for name, value in tensors.items()}
  shapes = flatten_dict(jax.eval_shape(lambda: init_params(config, jax.random.key(0))))
  params, used = {}, set()
  for path, shape in shapes.items():
    local, names = _places(config, path)
    out, back = _layout("/" + local, config.video.patch)
    grouped = path[1] == "groups"
    missing = [name for name in names if name not in tensors]
    if missing:
      raise KairosError(f"checkpoint lacks {missing[0]!r}" + (f" and {len(missing) - 1} like it" * (len(missing) > 1)))
    want = out(np.broadcast_to(np.float32(0), shape.shape[1:] if grouped else shape.shape)).shape
    for name in names:
      if tensors[name].shape != want:
        raise KairosError(f"checkpoint's {name!r} is {tensors[name].shape}; the model needs {want}")
    values = [np.asarray(back(tensors[name]), np.float32) for name in names]
    value = np.stack(values) if grouped else values[0]
    params[path] = value
    used.update(names)
  unknown = sorted(set(tensors) - used)
  if unknown:
    raise KairosError(f"checkpoint holds {len(unknown)} tensors that the model has no place for, first {unknown[0]!r}")
  return unflatten_dict(params)


def module_from_reference(tensors: Tensors, shapes: Params) -> Params:
  """The tensors of a single module, whose parameters have the shapes of `shapes`."""
  params = {}
  for path in flatten_dict(shapes):
    local = "/".join(path)
    _, back = _layout("/" + local, (1, 2, 2))
    params[path] = np.asarray(back(tensors[reference_name("/" + local).lstrip(".")]))
  return unflatten_dict(params)


def load_safetensors(path: str | Path, config: WorldActionConfig) -> Params:
  """Reads a released checkpoint: one file, or a folder of shards.

  Raises:
    KairosError: no such file, not safetensors, or not this model's weights.
  """
  path = Path(path)
  shards = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
  if not shards or not all(shard.exists() for shard in shards):
    raise KairosError(f"no safetensors file at {path}")
  tensors: dict[str, np.ndarray] = {}
  for shard in shards:
    tensors.update(files.read_safetensors(shard))
  return from_reference(tensors, config)


def save_safetensors(path: str | Path, params: Params, config: WorldActionConfig) -> None:
  """Writes parameters under the reference's names."""
  files.write_safetensors(path, to_reference(params, config))


def _without_wrapper(name: str) -> str:
  name = re.sub(r"^(pipe\.)?dit\.", "", name)
  return name if name.startswith(("video_dit.", "action_dit.")) else "video_dit." + name
