"""Official files to a model of ours: the towers tensor by tensor, the video autoencoder, the understanding tower."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from data_pipelines import dataset_stats, embodiments
from data_pipelines.normalize import EmbodimentNormalizer, Normalizer
from kairos_jax import assembly, shards
from kairos_jax.errors import KairosError
from kairos_jax.interop import codec_weights
from kairos_jax.interop.reference_names import modern_name
from kairos_jax.interop.saved_model import SavedModel
from kairos_jax.released.catalog import BYTES, Released, find
from kairos_jax.shards import Stored

FLOATS = ("float64", "float32", "float16", "bfloat16")  # types that the official files may have


@dataclasses.dataclass(frozen=True)
class Files:
  """Where the parts of a model lie. `statistics` is None where there are none."""

  towers: list[Path]
  codec: Path
  encoder: Path
  statistics: Path | None


def locate(model: Released, folder: str | Path) -> Files:
  """The parts' files below a folder, in the layouts of the official configs and download commands.

  Raises:
    KairosError: a part is missing; the places where it may lie are named.
  """
  folder, config = Path(folder), model.config
  where = ("", f"{config.repository}/", f"Kairos-model/kairos-agi/{config.repository}/", "Kairos/models/robot/")
  towers = [f"{place}{file}{index}" for place in where for file in config.files for index in ("", ".index.json")]
  tower = _first(folder, "the towers", towers)
  statistics = []
  if config.robot is not None:
    statistics = [folder / f"{place}{config.robot.statistics}" for place in where]
  return Files(
    shards.shards_of(tower) if tower.suffix == ".json" else [tower],
    _first(folder, "the video autoencoder", config.vae),
    _first(folder, "the understanding tower", [f"{place}/config.json" for place in config.encoder]).parent,
    next((path for path in statistics if path.exists()), None),
  )


def load(name: str, folder: str | Path, *, dtype: str = "bfloat16") -> SavedModel:
  """A released model from its official files.

  Args:
    dtype: of the weights in memory and of the towers' computation, "bfloat16" or "float32".

  Raises:
    KairosError: no such model or type, or a file or a tensor is missing, cut short, unknown, or of another shape; the
      line names the file, the tensor, and both shapes.
  """
  model = find(name)
  files = locate(model, folder)
  saved = outline(model, files, dtype)
  params = {
    **load_towers(model, files.towers, dtype),
    "bridge": saved.encoder.init(jax.random.key(0)),
    "codec": jax.tree.map(jnp.asarray, codec_weights.load(model.codec, files.codec)),
  }
  return dataclasses.replace(saved, params=params)


def outline(model: Released, files: Files, dtype: str) -> SavedModel:
  """The model without its parameters; raises as `load` does."""
  if dtype not in BYTES:
    raise KairosError(f"dtype is {dtype!r}; allowed: {', '.join(BYTES)}")
  config = model.computing_in(dtype)
  encoder = assembly.make_encoder(dict(kind="qwen", folder=str(files.encoder), dtype=dtype))
  if encoder.text_dim != config.video.text_dim:
    raise KairosError(
      f"{files.encoder} gives {encoder.text_dim} numbers a token; {model.name} reads {config.video.text_dim}"
    )
  robot, sampling = model.config.robot, model.config.sampling
  return SavedModel(
    model_config=config,
    codec=model.codec,
    encoder=encoder,
    params={},
    video_fps=sampling.fps,
    frame_size=(sampling.height, sampling.width),
    clip_frames=sampling.frames,
    action_horizon=0 if robot is None else robot.horizon,
    embodiments={} if robot is None else {robot.embodiment: _normalizer(robot.embodiment, files.statistics)},
  )


def load_towers(model: Released, files: Sequence[Path], dtype: str) -> dict[str, Any]:
  """Parameters of the towers, one tensor of the files in memory at a time beside them; raises as `load` does."""
  table = model.places()
  found = check_towers(model, files)
  params = {}
  for path, place in table.items():
    values = (place.from_reference(shards.read(found[modern_name(name)])) for name in place.names)
    if not place.stacked:
      params[path] = jnp.asarray(np.ascontiguousarray(next(values), jnp.dtype(dtype)))
      continue
    out: Any = None
    for i, value in enumerate(values):
      if out is None:
        out = np.empty((len(place.names), *value.shape), jnp.dtype(dtype))
      out[i] = value
    params[path] = jnp.asarray(out)
  return unflatten_dict(params)


def check_towers(model: Released, files: Sequence[Path]) -> dict[str, Stored]:
  """Where the towers' tensors lie, by their names with a tower in front, from the files' headers; raises as `load`."""
  found = shards.list_tensors(list(files), modern_name)
  for stored in found.values():
    if stored.dtype.name not in FLOATS:
      raise KairosError(f"{stored.file}: {stored.name!r} is {stored.dtype.name}; allowed: {', '.join(FLOATS)}")
  where = files[0] if len(files) == 1 else files[0].parent
  wanted = {modern_name(name): place for place in model.places().values() for name in place.names}
  if missing := [name for name in wanted if name not in found]:
    more = f" and {len(missing) - 1} more" * (len(missing) > 1)
    raise KairosError(f"{where} lacks the tensor {missing[0]!r} {list(wanted[missing[0]].shape)}{more}")
  for name, place in wanted.items():
    if found[name].shape != place.shape:
      there, needed = list(found[name].shape), list(place.shape)
      raise KairosError(f"{found[name].file}: {found[name].name!r} is {there}; the model needs {needed}")
  if unknown := sorted(set(found) - set(wanted)):
    first = found[unknown[0]]
    raise KairosError(
      f"{first.file} holds {len(unknown)} tensors that the model has no place for, first {first.name!r} "
      f"{list(first.shape)}"
    )
  return found


def _normalizer(embodiment: str, statistics: Path | None) -> EmbodimentNormalizer:
  """Of the official statistics; without them the robot's numbers are taken as they are."""
  robot = embodiments.get(embodiment)
  if statistics is not None:
    return dataset_stats.read(statistics).normalizer(robot)
  return plain_normalizer(robot)


def plain_normalizer(robot: embodiments.Embodiment) -> EmbodimentNormalizer:
  """One that leaves the robot's numbers as they are."""
  plain = lambda n: Normalizer("none", np.zeros(n, np.float32), np.ones(n, np.float32))  # noqa: E731
  return EmbodimentNormalizer(robot, plain(len(robot.state)), plain(len(robot.action)))


def _first(folder: Path, part: str, places: Sequence[str]) -> Path:
  for place in places:
    if (folder / place).exists():
      return folder / place
  raise KairosError(f"{folder} lacks {part}; allowed: {', '.join(places)}")
