"""Latents on disk: an autoencoder that never trains reads every sample once, and no step runs it again.

They are records like any other, see `data_pipelines.sources.encoded`, and hold a hash of the autoencoder that made
them. Latents of another one are an error, not latents.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float16, UInt8

from data_pipelines.curriculum.buckets import Shapes
from data_pipelines.sampling import Window
from data_pipelines.source import ArrayRecordSource, Source
from data_pipelines.sources.build import build
from data_pipelines.sources.encoded import Encode, Encoded
from data_pipelines.sources.episode import Report
from kairos_jax import assembly, locations, seeds
from kairos_jax.errors import KairosError
from kairos_jax.interfaces import VideoCodec
from kairos_jax.interop import codec_weights
from kairos_jax.training import parts
from kairos_jax.training import start as start_lib
from kairos_jax.training.frozen import content_hashes
from kairos_jax.training.run_config import RunConfig, model_config

Params = dict[str, Any]
PER_SHARD = 64  # clips


def write(
  config: RunConfig,
  stage: str,
  folder: str,
  samples: int = 1,
  on_part: Callable[[str, int, int, Report], None] = lambda source, done, total, report: None,
) -> dict[str, Report]:
  """Writes {folder}/{source} for every source of the config, as the stage would see its clips.

  Interrupted, the next call goes on with the first shard that is missing. All devices of this process share a batch.

  Args:
    config: of the run whose stages will read the latents.
    stage: whose frames, resolution and crop they have.
    folder: that becomes `data.folder` of that run.
    samples: of each clip, where it is cropped at random.
    on_part: hears of each shard: the source, how many are done, of how many, and what was read so far.

  Raises:
    KairosError: the stage has several lengths or images, the config names no autoencoder that is trained, pictures of
      a source differ in size, or the folder holds something else.
  """
  of, frames = config.stages[stage], config.stages[stage].frames or (config.data.frames,)
  if len(frames) > 1 or of.image_share:
    raise KairosError(
      f"stages.{stage} has frames {frames} and image_share {of.image_share:g}; latents are of one length and no image"
    )
  codec = assembly.make_codec(config.codec)
  params = _codec_params(config, codec)
  made_by, encode = codec_hash(codec, params), encoder(codec, params)
  reports = {}
  for name in config.data.sources:
    source = ArrayRecordSource(locations.at(config.data.folder) / name)
    window = Window(frames[0], config.data.video_fps, 0, 0, 0, _size(name, source, of.resolution), {})
    crop: dict[str, Any] = dict(crop=of.crop, samples=samples, seed=seeds.derive(config.seed, "latents", name))
    encoded = Encoded(name, source, window, made_by, encode, len(jax.local_devices()), PER_SHARD, **crop)
    recipe = dict(latents=made_by, frames=frames[0], video_fps=config.data.video_fps, size=window.picture_size, **crop)
    total = len(encoded.parts)

    def hear(done: int, report: Report, name: str = name, total: int = total) -> None:
      on_part(name, done, total, report)

    reports[name] = build(encoded, locations.at(folder) / name, name, recipe, on_part=hear)
  return reports


def check(wanted: bool, sources: Mapping[str, Source], codec: VideoCodec, params: Params) -> None:
  """That sources hold latents of this codec if they are wanted, and pictures if not.

  Raises:
    KairosError: they do not.
  """
  made_by = codec_hash(codec, params) if wanted else ""
  for name, source in sources.items():
    for contents in source.contents.values():
      if (contents.encoding is not None) != wanted:
        holds = "latents" if contents.encoding else "pictures"
        raise KairosError(f"config key data.latents is {wanted}; source {name} holds {holds}")
      if contents.encoding and contents.encoding.made_by != made_by:
        hashes = f"{contents.encoding.made_by[:12]} there and {made_by[:12]} here"
        raise KairosError(f"source {name} has latents of another autoencoder than the run's ({hashes})")


def codec_hash(codec: VideoCodec, params: Params) -> str:
  """Of kind, options and weights, hexadecimal."""
  told = json.dumps([assembly.describe(codec), content_hashes({"codec": params})], sort_keys=True)
  return hashlib.sha256(told.encode()).hexdigest()


def encoder(codec: VideoCodec, params: Params) -> Encode:
  """Videos to latents, a clip or more on each of this process's devices."""
  mesh = Mesh(np.asarray(jax.local_devices()), ("clips",))
  everywhere, apart = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("clips"))
  params = jax.device_put(params, everywhere)
  run = jax.jit(lambda params, video: codec.encode(params, video)[0].astype(jnp.float16), out_shardings=apart)

  def encode(videos: UInt8[np.ndarray, "B T H W 3"]) -> Float16[np.ndarray, "B N h w C"]:
    return np.asarray(jax.device_get(run(params, jax.device_put(videos, apart))))

  return encode


def _codec_params(config: RunConfig, codec: VideoCodec) -> Params:
  """Of the file that the config names, or of what it starts from."""
  if weights := config.codec.get("weights"):
    return codec_weights.load(codec, weights)
  start = start_lib.load_all(config.init_from, model_config(config, with_actions=True)) if config.init_from else {}
  if "codec" not in start:
    raise KairosError(
      f"config keys codec.weights and init_from are {config.codec.get('weights')} and {config.init_from}: latents need "
      "an autoencoder that is trained already"
    )
  return start["codec"]


def _size(name: str, source: Source, resolution: Any) -> tuple[int, int]:
  """Of the pictures of a source."""
  shapes = Shapes({1: 0}, resolution)
  sizes = {parts.picture_of(contents, shapes) for contents in source.contents.values()}
  if len(sizes) > 1:
    raise KairosError(f"pictures of source {name} differ in size: {sorted(sizes)}; a resolution makes them alike")
  return sizes.pop()
