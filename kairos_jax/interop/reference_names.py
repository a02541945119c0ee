"""Parameters <-> the reference's state dict: every tensor has one name there and one place here.

Both directions only rename, transpose and stack, so a round trip is bit-exact.
"""

import functools
import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path as Folder
from typing import Any, NamedTuple

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
Path = tuple[str, ...]  # of a parameter

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


class Place(NamedTuple):
  """Where a parameter lies in the reference's state dict.

  Attributes:
    names: of its tensors: one for each layer group where the parameter is `stacked`, else a single one.
    shape: of each of them there.
    to_reference, from_reference: between one tensor there and one here, without an axis of groups.
  """

  names: tuple[str, ...]
  shape: tuple[int, ...]
  stacked: bool
  to_reference: Callable[[np.ndarray], np.ndarray]
  from_reference: Callable[[np.ndarray], np.ndarray]


@functools.lru_cache(maxsize=8)
def places(config: WorldActionConfig, *, bare: bool = False) -> Mapping[Path, Place]:
  """The place of every parameter, by its path.

  Args:
    bare: the video tower's tensors are named without "video_dit.", as the first models have them.
  """
  shapes = flatten_dict(jax.eval_shape(lambda: init_params(config, jax.random.key(0))))
  found = {}
  for path, shape in shapes.items():
    local, names = _names(config, path, bare)
    out, back = _layout("/" + local, config.video.patch)
    stacked = path[1] == "groups"
    hollow = np.broadcast_to(np.uint8(0), shape.shape[1:] if stacked else shape.shape)
    found[path] = Place(names, out(hollow).shape, stacked, out, back)
  return types.MappingProxyType(found)  # it is shared by all callers


def _names(config: WorldActionConfig, path: Path, bare: bool) -> tuple[str, tuple[str, ...]]:
  """(path below its tower or block, one reference name per layer group, or a single one) of a parameter."""
  tower, *rest = path
  prefix = {"video": "" if bare else "video_dit.", "action": "action_dit."}[tower]
  if rest[0] == "groups":
    layer, size = int(rest[1].removeprefix("layer_")), len(config.video.group)
    local = "/".join(rest[2:])
    name = reference_name(local)
    return local, tuple(f"{prefix}blocks.{g * size + layer}.{name}" for g in range(config.video.groups))
  local = "/".join(rest)
  name = reference_name(local)
  # The action tower's head is a plain Linear; the video tower's sits beside a modulation, one level down.
  return local, (prefix + (name.replace("head.head.", "head.") if tower == "action" else name),)


def layer_names(path: Path, config: WorldActionConfig) -> tuple[str, ...]:
  """The reference's names of a parameter of the towers' layers, one for each layer group."""
  return _names(config, path, bare=False)[1]


def to_reference(params: Params, config: WorldActionConfig, *, bare: bool = False) -> dict[str, np.ndarray]:
  """Parameters as the reference's state dict; `bare` as in `places`."""
  tensors = {}
  table = places(config, bare=bare)
  for path, value in flatten_dict(params).items():
    place = table[path]
    values = np.asarray(value) if place.stacked else np.asarray(value)[None]
    tensors.update(
      {name: np.ascontiguousarray(place.to_reference(v)) for name, v in zip(place.names, values, strict=True)}
    )
  return tensors


def from_reference(tensors: Tensors, config: WorldActionConfig) -> Params:
  """The reference's state dict as parameters, in float32.

  Raises:
    KairosError: a tensor is missing, unknown, or of another shape than `config` says; it is named.
  """
  tensors = {modern_name(name): value for name, value in tensors.items()}
  table = places(config)
  check_names({name: value.shape for name, value in tensors.items()}, table)
  params = {}
  for path, place in table.items():
    values = [np.asarray(place.from_reference(tensors[name]), np.float32) for name in place.names]
    params[path] = np.stack(values) if place.stacked else values[0]
  return unflatten_dict(params)


def check_names(found: Mapping[str, tuple[int, ...]], table: Mapping[Path, Place]) -> None:
  """Holds the names and shapes of a checkpoint against those of the model.

  Raises:
    KairosError: a tensor is missing, unknown, or of another shape; it is named.
  """
  wanted = {name: place.shape for place in table.values() for name in place.names}
  if missing := [name for name in wanted if name not in found]:
    more = f" and {len(missing) - 1} more" * (len(missing) > 1)
    raise KairosError(f"checkpoint lacks {missing[0]!r} {list(wanted[missing[0]])}{more}")
  for name, shape in wanted.items():
    if tuple(found[name]) != shape:
      raise KairosError(f"checkpoint's {name!r} is {list(found[name])}; the model needs {list(shape)}")
  if unknown := sorted(set(found) - set(wanted)):
    raise KairosError(
      f"checkpoint holds {len(unknown)} tensors that the model has no place for, first {unknown[0]!r} "
      f"{list(found[unknown[0]])}"
    )


def module_from_reference(tensors: Tensors, shapes: Params) -> Params:
  """The tensors of a single module, whose parameters have the shapes of `shapes`."""
  params = {}
  for path in flatten_dict(shapes):
    local = "/".join(path)
    _, back = _layout("/" + local, (1, 2, 2))
    params[path] = np.asarray(back(tensors[reference_name("/" + local).lstrip(".")]))
  return unflatten_dict(params)


def load_safetensors(path: str | Folder, config: WorldActionConfig) -> Params:
  """Reads a released checkpoint: one file, or a folder of shards.

  Raises:
    KairosError: no such file, not safetensors, or not this model's weights.
  """
  path = Folder(path)
  shards = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
  if not shards or not all(shard.exists() for shard in shards):
    raise KairosError(f"no safetensors file at {path}")
  tensors: dict[str, np.ndarray] = {}
  for shard in shards:
    tensors.update(files.read_safetensors(shard))
  return from_reference(tensors, config)


def save_safetensors(path: str | Folder, params: Params, config: WorldActionConfig) -> None:
  """Writes parameters under the reference's names."""
  files.write_safetensors(path, to_reference(params, config))


def modern_name(name: str) -> str:
  """A tensor's name with its tower in front and without what some files wrap around it."""
  name = re.sub(r"^(pipe\.)?dit\.", "", name)
  return name if name.startswith(("video_dit.", "action_dit.")) else "video_dit." + name
