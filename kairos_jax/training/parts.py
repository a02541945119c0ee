"""What a stage begins with: the codec of the run, the towers and the encoder, made or taken from a start."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from jaxtyping import UInt8

from data_pipelines import embodiments
from data_pipelines.contents import Contents
from data_pipelines.curriculum.buckets import Resolution, Shapes
from data_pipelines.normalize import EmbodimentNormalizer, make_normalizers
from data_pipelines.records import Clip
from data_pipelines.source import Source
from kairos_jax import console, files
from kairos_jax.errors import KairosError
from kairos_jax.interfaces import ContextEncoder, VideoCodec, num_frames, num_latents
from kairos_jax.interop import codec_weights, saved_model
from kairos_jax.model import WorldActionConfig
from kairos_jax.model.initialize import interpolate_video
from kairos_jax.model.world_action import init_params
from kairos_jax.parallel import process, rules
from kairos_jax.training import start as start_lib

Params = dict[str, Any]
CODEC_CLIPS = 192  # of each source, for fitting the codec


def grow(
  params: Params,
  start: Params,
  towers: WorldActionConfig,
  encoder: ContextEncoder,
  key: jax.Array,
  where: str,
  mesh: Mesh,
) -> Params:
  """The last stage's weights, with whatever is new in this one: from the start where it has it, else made.

  What is made lies on the mesh from the beginning: no device ever holds all of it.
  """
  parts = ("bridge", "video", "action") if towers.action else ("bridge", "video")
  new = [name for name in parts if name not in params]
  if not new:
    return params
  teacher = params.get("video", start.get("video"))

  model_key, bridge_key = jax.random.split(key)

  def fresh(key: jax.Array, video: Params | None) -> Params:
    tree = init_params(towers, key)
    if "action" in new and video is not None:
      tree["action"] = interpolate_video(video, tree["action"], towers.video)
    return {name: tree[name] for name in new if name in tree}

  lie = rules.sharding(mesh, jax.eval_shape(fresh, model_key, teacher))
  made = jax.jit(fresh, out_shardings=lie)(model_key, teacher)
  if "bridge" in new:  # an encoder that comes trained reads its weights: as part of `fresh` they would be constants
    made["bridge"] = encoder.init(bridge_key)
  if start:
    given = {name: value for name, value in start.items() if name in new or name not in (*parts, "action", "codec")}
    made, rows = start_lib.take(made, given, where, grown=("action",) if teacher is not None else ())
    console.show(start_lib.table(rows, where))
  return {**params, **made}


def codec_params(
  codec: VideoCodec,
  weights: str | None,
  path: Path,
  sources: Mapping[str, Source],
  seed: int,
  resolution: Resolution | None = None,
) -> Params:
  """The codec's parameters: of a released weight file, or fitted once in a run to the first clips of every source.

  Pictures are fitted as a stage of this resolution sees them; of several sizes, those of the first clip's.
  """
  if process.is_first() and not path.exists() and weights:
    _write_codec(path, codec_weights.load(codec, weights))
  if process.is_first() and not path.exists():
    records = itertools.chain.from_iterable(
      (source[i] for i in range(min(CODEC_CLIPS, len(source)))) for source in sources.values()
    )
    pictures = _alike(_picture(record.clip, resolution) for record in records if record is not None)
    whole = (video[: num_frames(codec, num_latents(codec, len(video)))] for video in pictures)
    with console.progress("codec", total=1.0) as bar:
      fitted = codec.fit(whole, seed, bar.update)
    _write_codec(path, fitted)
  process.wait_for_all("codec")
  return unflatten_dict(files.read_safetensors(path), sep="/")


def take_codec(codec: VideoCodec, start: Params, path: Path, where: str, weights: str | None) -> None:
  """Writes the codec that the start brings, for its weights read no other's latents.

  Raises:
    KairosError: it is of another kind, or the config names a file of `weights` too.
  """
  if weights:
    raise KairosError(f"config key codec.weights is {weights!r}; allowed: none, init_from {where} brings its codec")
  taken, rows = start_lib.take({"codec": codec.param_shapes()}, {"codec": start["codec"]}, where)
  if other := [row for row in rows if row.what != "taken"]:
    raise KairosError(f"init_from {where}: its codec is of another kind than config key codec: {other[0].name}")
  _write_codec(path, taken["codec"])


def units(sources: Mapping[str, Source], kept: str | None) -> Mapping[str, EmbodimentNormalizer]:
  """What maps each robot's units to the model's: from the sources, or the own ones of a saved model that are kept."""
  ours = make_normalizers(sources)
  known = saved_model.outline(kept)[1].embodiments if kept else {}
  return {name: known.get(name, normalizer) for name, normalizer in ours.items()}


def _write_codec(path: Path, params: Params) -> None:
  files.write_safetensors(path, flatten_dict(jax.device_get(params), sep="/"))


def _picture(clip: Clip, resolution: Resolution | None) -> UInt8[np.ndarray, "T H W 3"]:
  """The clip as the model sees it: its cameras in one picture."""
  embodiment = embodiments.get(clip.embodiment)
  size = Shapes({1: 0}, resolution).picture(embodiment, Contents.of_clip(clip))
  return embodiments.compose(embodiment, clip.cameras, size)


def _alike(videos: Iterable[UInt8[np.ndarray, "_ H W 3"]]) -> Iterator[UInt8[np.ndarray, "_ H W 3"]]:
  """Those whose pictures have the size of the first's."""
  size: tuple[int, ...] | None = None
  for video in videos:
    size = size or video.shape[1:]
    if video.shape[1:] == size:
      yield video


def picture_size(source: Source, resolution: Resolution | None) -> tuple[int, int]:
  """Height and width of a source's pictures, pixels, as a stage of this resolution sees them."""
  return picture_of(next(iter(source.contents.values())), Shapes({1: 0}, resolution))


def picture_of(contents: Contents, shapes: Shapes) -> tuple[int, int]:
  """Height and width of the pictures that a source's cameras make, pixels."""
  return shapes.picture(embodiments.get(contents.embodiment), contents)
