"""The curriculum: one config, its stages one after the other, each from the last one's weights.

Source: Kairos section 3 (CEDC): I physics and II human behavior train the video tower alone, III the robot both.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import UInt8
from ml_collections import ConfigDict

from data_pipelines import embodiments
from data_pipelines.curriculum import Mixture
from data_pipelines.loader import make_loader
from data_pipelines.normalize import EmbodimentNormalizer, make_normalizers
from data_pipelines.records import Clip
from data_pipelines.shards import read_manifest
from data_pipelines.source import ArrayRecordSource, ReadReport, Source
from kairos_jax import assembly, files, seeds
from kairos_jax.errors import KairosError
from kairos_jax.flow.objective import Objective, ObjectiveConfig
from kairos_jax.interfaces import ContextEncoder, VideoCodec, num_frames, num_latents
from kairos_jax.interop.saved_model import SavedModel
from kairos_jax.interop.saved_model import save as save_model
from kairos_jax.model import ActionConfig, VideoConfig, WorldActionConfig, WorldActionModel
from kairos_jax.model.config import named_dtype
from kairos_jax.model.initialize import interpolate_video
from kairos_jax.model.world_action import init_params
from kairos_jax.parallel.mesh import make_mesh
from kairos_jax.training import frozen as frozen_lib
from kairos_jax.training.loop import train
from kairos_jax.training.workdir import claim_workdir

Params = dict[str, Any]
CODEC_CLIPS = 48  # of each source, for fitting the codec


def run(config: ConfigDict, workdir: str | Path) -> Path:
  """Trains every stage of `config.stages` and writes the model to {workdir}/model.

  Finished stages are kept, an interrupted one goes on where it stopped.

  Args:
    config: see experiments/cue_reach.py.
    workdir: folder of the run; belongs to one config.

  Returns:
    The model's folder.

  Raises:
    KairosError: the config is at fault or a dataset is not there (nothing was written then), the folder belongs to
      another config or process, the data cannot be read, or training failed.
  """
  # A folder claimed by a mistake would refuse the config put right.
  _check(config)
  for name in config.data.sources:
    read_manifest(Path(config.data.folder) / name)
  with claim_workdir(workdir, config):
    return run_claimed(config, Path(workdir))


def run_claimed(config: ConfigDict, workdir: Path) -> Path:
  """`run` for a caller that holds the folder already, see `claim_workdir`."""
  report = ReadReport()
  sources = {name: ArrayRecordSource(Path(config.data.folder) / name, report) for name in config.data.sources}
  normalizers = make_normalizers(sources)
  codec, encoder = assembly.make_codec(config.codec.to_dict()), assembly.make_encoder(config.bridge.to_dict())
  frozen = {"codec": _fitted_codec(codec, workdir / "codec.safetensors", sources, seeds.derive(config.seed, "codec"))}

  params: Params | None = None
  for name, steps in stage_steps(config).items():
    logging.info("stage %s: %d steps", name, steps)
    stage = config.stages[name]
    towers = model_config(config, with_actions=stage.actions)
    model = WorldActionModel(towers)
    params = _grow(params, towers, encoder, jax.random.key(seeds.derive(config.seed, "stage", name, "init")))
    objective = Objective(
      model,
      encoder,
      codec,
      ObjectiveConfig(
        tasks=stage.tasks.to_dict(),
        text_dropout=config.train.text_dropout,
        max_observed=stage.max_observed,
        action_horizon=config.data.action_horizon if stage.actions else 0,
        action_weight=config.train.action_weight,
        chunks_per_clip=config.train.chunks_per_clip,
      ),
    )
    data = make_loader(
      sources,
      Mixture(stage.mixture.start.to_dict(), stage.mixture.end.to_dict()),
      batch_size=config.train.batch_size // jax.process_count(),
      frames=config.data.frames,
      video_fps=config.data.video_fps,
      seed=seeds.derive(config.seed, "stage", name, "data"),
      tokenize=lambda text: encoder.tokenize([text])[0],
      steps=steps,
      crop=stage.crop,
      instruction_share=tuple(stage.instruction_share),
      state_dim=config.model.action.state_dim,
      action_dim=config.model.action.action_dim,
      action_steps=action_steps(config, normalizers),
      normalizers=normalizers,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )
    params = train(
      name=name,
      loss_fn=objective,
      params=params,
      frozen=frozen,
      data=data,
      config=_loop_config(config, stage, steps),
      workdir=workdir / name,
      mesh=make_mesh(),
      seed=seeds.derive(config.seed, "stage", name, "noise"),
    )
    if report.holes:
      logging.warning("%d records could not be read so far, %d shards among them", report.holes, report.shards_lost)

  saved = SavedModel(
    model_config=model_config(config, with_actions=True),
    encoder=encoder,
    codec=codec,
    params=jax.device_get(frozen_lib.merge(params or {}, frozen)),
    video_fps=config.data.video_fps,
    frame_size=_picture_size(next(iter(sources.values()))),
    clip_frames=config.data.frames,
    action_horizon=config.data.action_horizon,
    embodiments=normalizers,
  )
  save_model(workdir / "model", saved)
  return workdir / "model"


def _check(config: ConfigDict) -> None:
  """Builds all that the config alone decides, for the errors it raises."""
  seeds.derive(config.seed)
  assembly.make_codec(config.codec.to_dict())
  assembly.make_encoder(config.bridge.to_dict())
  model_config(config, with_actions=True)
  stage_steps(config)


def stage_steps(config: ConfigDict) -> dict[str, int]:
  """Optimizer steps of each stage, in order: `config.train.steps` split by the stages' shares.

  Raises:
    KairosError: a stage of the order does not exist, shares do not sum to 1, or a stage would have no step.
  """
  unknown = [name for name in config.order if name not in config.stages]
  if unknown:
    raise KairosError(f"config.order names {unknown[0]!r}; config.stages has {', '.join(config.stages)}")
  shares = [config.stages[name].share for name in config.order]
  if abs(sum(shares) - 1) > 1e-6 or min(shares) <= 0:
    raise KairosError(f"shares of the stages in config.order are {shares}; they must be positive and sum to 1")
  ends = [round(config.train.steps * total) for total in itertools.accumulate(shares)]
  steps = [end - start for start, end in itertools.pairwise([0, *ends])]
  if min(steps) < 1:
    raise KairosError(f"config.train.steps is {config.train.steps}: too few for {len(steps)} stages")
  return dict(zip(config.order, steps, strict=True))


def model_config(config: ConfigDict, *, with_actions: bool) -> WorldActionConfig:
  """The towers that `config.model` describes, as the model's own dataclasses."""
  dtype = dict(dtype=named_dtype(config.model.dtype), remat=config.model.remat, text_dim=config.bridge.text_dim)
  video = {**config.model.video.to_dict(), "layers": tuple(config.model.video.layers)}
  action = config.model.action.to_dict()
  return WorldActionConfig(
    video=VideoConfig(**video, channels=config.codec.channels, **dtype),
    action=ActionConfig(**action, attention_dim=video["dim"], heads=video["heads"], **dtype) if with_actions else None,
  )


def _grow(params: Params | None, towers: WorldActionConfig, encoder: ContextEncoder, key: jax.Array) -> Params:
  """The last stage's weights, with whatever is new in this one."""
  params = params or {}
  parts = ("bridge", "video", "action") if towers.action else ("bridge", "video")
  new = [name for name in parts if name not in params]

  @jax.jit
  def fresh(key: jax.Array, video: Params | None) -> Params:
    model_key, bridge_key = jax.random.split(key)
    tree = init_params(towers, model_key)
    tree["bridge"] = encoder.init(bridge_key)
    if "action" in new and video is not None:
      tree["action"] = interpolate_video(video, tree["action"], towers.video)
    return {name: tree[name] for name in new}

  return {**params, **fresh(key, params.get("video"))} if new else params


def _loop_config(config: ConfigDict, stage: ConfigDict, steps: int) -> ConfigDict:
  """What the training loop reads: the run's settings with the stage's own length and optimizer."""
  optimizer = ConfigDict({**config.optimizer.to_dict(), **stage.optimizer.to_dict()})
  optimizer.warmup_steps = min(optimizer.warmup_steps, steps - 1)
  loop = {name: config.train[name] for name in _LOOP_KEYS}
  return ConfigDict({**loop, "steps": steps, "optimizer": optimizer})


_LOOP_KEYS = ("log_every", "checkpoint_every", "max_to_keep", "ema_decay", "grad_accum_steps", "explode_factor")


def action_steps(config: ConfigDict, normalizers: Mapping[str, EmbodimentNormalizer]) -> int:
  """Actions of a sample: enough for a whole chunk after its last frame, at the fastest robot's rate."""
  seconds = (config.data.frames - 1) / config.data.video_fps
  fastest = max((normalizer.embodiment.control_hz for normalizer in normalizers.values()), default=0.0)
  return round(seconds * fastest) + config.data.action_horizon


def _fitted_codec(codec: VideoCodec, path: Path, sources: Mapping[str, Source], seed: int) -> Params:
  """The codec's parameters, fitted once in a run to the first clips of every source."""
  if not path.exists():
    records = itertools.chain.from_iterable(
      (source[i] for i in range(min(CODEC_CLIPS, len(source)))) for source in sources.values()
    )
    pictures = (_picture(record.clip) for record in records if record is not None)
    whole = (video[: num_frames(codec, num_latents(codec, len(video)))] for video in pictures)
    files.write_safetensors(path, flatten_dict(jax.device_get(codec.fit(whole, seed)), sep="/"))
  params = unflatten_dict(files.read_safetensors(path), sep="/")
  return jax.tree.map(jnp.asarray, params)


def _picture(clip: Clip) -> UInt8[np.ndarray, "T H W 3"]:
  """The clip as the model sees it: its cameras in one picture."""
  return embodiments.compose(embodiments.get(clip.embodiment), clip.cameras)


def _picture_size(source: Source) -> tuple[int, int]:
  """Height and width of a source's pictures, pixels."""
  contents = next(iter(source.contents.values()))
  return embodiments.picture_size(embodiments.get(contents.embodiment), contents.cameras)
