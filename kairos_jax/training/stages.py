"""The stages of a run whose folder is held: the data, parts and objective of each, and the models that come of them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh

from data_pipelines.curriculum.buckets import Shapes
from data_pipelines.curriculum.schedule import Mixture
from data_pipelines.held_out import hold_out
from data_pipelines.loader import make_loader
from data_pipelines.normalize import EmbodimentNormalizer
from data_pipelines.source import ArrayRecordSource, ReadReport, Source
from kairos_jax import assembly, locations, seeds
from kairos_jax.errors import KairosError
from kairos_jax.flow.objective import Objective
from kairos_jax.flow.official import OfficialVideoObjective
from kairos_jax.interfaces import ContextEncoder, VideoCodec
from kairos_jax.interop import saved_model
from kairos_jax.interop.saved_model import SavedModel
from kairos_jax.model import ActionConfig, WorldActionModel
from kairos_jax.parallel import process
from kairos_jax.parallel.mesh import make_mesh, reader
from kairos_jax.training import adapted, contexts, distilling, improving, latents, parts
from kairos_jax.training import start as start_lib
from kairos_jax.training.checkpoint import load_params
from kairos_jax.training.in_turn import InTurn
from kairos_jax.training.loop import train
from kairos_jax.training.parts import Params
from kairos_jax.training.run_config import RunConfig, StageConfig, model_config, objective_config, stage_steps
from kairos_jax.training.step import LossFn
from kairos_jax.training.validation import Validation, held_out_losses


@dataclasses.dataclass(frozen=True)
class _Run:
  """What all stages share; `held_out` are the clips of `sources` that do not train, under their source's name."""

  config: RunConfig
  workdir: Path
  sources: Mapping[str, Source]
  held_out: Mapping[str, Source]
  normalizers: Mapping[str, EmbodimentNormalizer]
  codec: VideoCodec
  encoder: ContextEncoder
  mesh: Mesh


def run_claimed(config: RunConfig, workdir: Path) -> Path:
  """`curriculum.run` for a caller that holds the folder already, see `curriculum.claim`."""
  report = ReadReport()
  sources: dict[str, Source] = {
    name: ArrayRecordSource(locations.at(config.data.folder) / name, report) for name in config.data.sources
  }
  normalizers, held_out = parts.units(sources, config.data.units), {}
  if config.validation:
    name = config.validation.source
    sources[name], held_out[name] = hold_out(sources[name], config.validation.clips)
  codec, encoder = assembly.make_codec(config.codec), assembly.make_encoder(config.bridge)
  mesh = make_mesh(**dataclasses.asdict(config.mesh))
  this = _Run(config, workdir, sources, held_out, normalizers, codec, encoder, mesh)

  start = start_lib.load_all(config.init_from, model_config(config, with_actions=True)) if config.init_from else {}
  start = start_lib.without(start, config.init_new)
  codec_path = workdir / "codec.safetensors"
  if process.is_first() and not codec_path.exists() and "codec" in start:
    parts.take_codec(codec, start, codec_path, str(config.init_from), config.codec.get("weights"))
  codec_seed = seeds.derive(config.seed, "codec")
  resolution = config.stages[config.order[-1]].resolution
  if config.data.latents and not codec_path.exists() and not config.codec.get("weights"):
    raise KairosError("config key data.latents is True; allowed: with codec.weights, or init_from a model with a codec")
  params: Params = {
    "codec": parts.codec_params(codec, config.codec.get("weights"), codec_path, sources, codec_seed, resolution)
  }
  latents.check(config.data.latents, sources, codec, params["codec"])
  best = None
  for name in config.order:
    params, best = _run_stage(this, name, params, start)
    if report.holes:
      logging.warning("%d records could not be read so far, %d shards among them", report.holes, report.shards_lost)

  _save(this, workdir / "model", params)
  if best is not None:
    _save(this, workdir / "best", best)
  return workdir / "model"


def action_steps(frames: int, video_fps: float, horizon: int, normalizers: Mapping[str, EmbodimentNormalizer]) -> int:
  """Actions of a sample: enough for a whole chunk after its last frame, at the fastest robot's rate."""
  seconds = (frames - 1) / video_fps
  fastest = max((normalizer.embodiment.control_hz for normalizer in normalizers.values()), default=0.0)
  return round(seconds * fastest) + horizon


def _run_stage(this: _Run, name: str, params: Params, start: Params) -> tuple[Params, Params | None]:
  """All parameters after the stage: the averaged ones at its end, and at its best where validation kept that."""
  config, stage, steps = this.config, this.config.stages[name], stage_steps(this.config)[name]
  logging.info("stage %s: %d steps", name, steps)
  # A tower that learns alone leaves its model's others as they are.
  alone = bool(stage.distill or stage.dpo)
  towers = model_config(config, with_actions=stage.actions or (alone and "action" in {**start, **params}))
  init_key = jax.random.key(seeds.derive(config.seed, "stage", name, "init"))
  params = parts.grow(params, start, towers, this.encoder, init_key, config.init_from or "nothing", this.mesh)
  bridge: Params = {}
  if config.context_cache:
    bridge = {"bridge": process.on_host(params["bridge"])}
    every = {**this.sources, **{f"held out of {name}": source for name, source in this.held_out.items()}}
    cached = contexts.fill(config.context_cache, this.encoder, params["bridge"], contexts.texts_of(every))
    params = {part: value for part, value in params.items() if part != "bridge"}
    this = dataclasses.replace(this, encoder=cached)
  scale = adapted.lora_of(stage.lora).scale if stage.lora else 1.0
  model = WorldActionModel(towers)
  objective = Objective(model, this.encoder, this.codec, objective_config(config, name), scale)
  loss_fn: LossFn | InTurn = objective
  if stage.distill:
    loss_fn = distilling.networks(objective, stage.distill, config.model.times(stage.distill.tower), stage.optimizer)
  if stage.objective == "official_video":
    loss_fn = OfficialVideoObjective(model, this.encoder, this.codec, stage.tasks, scale)
  if stage.nft:
    loss_fn = improving.nft_loss(objective, stage.nft, sorted(this.sources))
  if stage.dpo:
    loss_fn = improving.dpo_loss(objective, stage.dpo)
  data = make_loader(
    this.sources,
    Mixture(stage.mixture.start, stage.mixture.end),
    batch_size=config.train.batch_size // reader(this.mesh)[1],
    seed=seeds.derive(config.seed, "stage", name, "data"),
    steps=steps,
    crop=stage.crop,
    instruction_share=stage.instruction_share,
    filters=stage.filters,
    shapes=_shapes(this, stage, stage.frames or (config.data.frames,), stage.image_share),
    **_samples(this),
  )
  validation = None
  if config.validation and name in config.validation.stages:
    validation = _validation(this, stage, objective)
  adapters_key = jax.random.key(seeds.derive(config.seed, "stage", name, "adapters"))
  trained, frozen = adapted.split(params, stage, adapters_key)
  trained = train(
    name=name,
    loss_fn=loss_fn,
    params=trained,
    frozen=frozen,
    data=data,
    config=config.train,
    optimizer_config=dataclasses.replace(stage.optimizer, warmup_steps=min(stage.optimizer.warmup_steps, steps - 1)),
    steps=steps,
    workdir=this.workdir / name,
    mesh=this.mesh,
    seed=seeds.derive(config.seed, "stage", name, "noise"),
    validation=validation,
  )
  best = None
  if validation and validation.keep_best:
    best = adapted.whole(load_params(this.workdir / name / "best"), frozen, stage) | bridge
  adapted.save_adapters(this.workdir / name / "adapters.safetensors", trained, stage, towers)
  return adapted.whole(trained, frozen, stage) | bridge, best


def _shapes(this: _Run, stage: StageConfig, frames: tuple[int, ...], image_share: float) -> Shapes:
  """The shapes of a stage's batches."""
  data = this.config.data
  steps = {x: action_steps(x, data.video_fps, data.action_horizon, this.normalizers) for x in frames}
  return Shapes(steps, stage.resolution, image_share)


def _samples(this: _Run) -> dict[str, Any]:
  """Arguments of the loader that training and validation share."""
  config, robot = this.config, model_config(this.config, with_actions=True).action or ActionConfig()
  index, count = reader(this.mesh)
  return dict(
    video_fps=config.data.video_fps,
    tokenize=lambda text: jax.tree.map(lambda x: x[0], this.encoder.tokenize([text])),
    state_dim=robot.state_dim,
    action_dim=robot.action_dim,
    normalizers=this.normalizers,
    process_index=index,
    process_count=count,
  )


def _validation(this: _Run, stage: StageConfig, objective: Objective) -> Validation:
  """The losses on all held-out clips, each from its first frame on and told by its instruction.

  Another of them takes the place of a clip that cannot be read.
  """
  config, validation = this.config, this.config.validation
  assert validation is not None
  clips = make_loader(
    this.held_out,
    Mixture({validation.source: 1.0}, {validation.source: 1.0}),
    batch_size=validation.clips // reader(this.mesh)[1],
    seed=seeds.derive(config.seed, "validation", "data"),
    steps=1,
    crop="start",
    instruction_share=(1.0, 1.0),
    shapes=_shapes(this, stage, (config.data.frames,), 0.0),
    **_samples(this),
  )
  losses = held_out_losses(
    objective,
    next(clips),
    validation.levels,
    most=config.train.batch_size // config.train.grad_accum_steps,
    seed=seeds.derive(config.seed, "validation", "noise"),
    mesh=this.mesh,
  )
  return Validation(losses, validation.every, validation.keep_best)


def _save(this: _Run, folder: Path, params: Params) -> None:
  """Writes a model of the run, in the first process; without an action tower where no stage trained one."""
  config = this.config
  saved = SavedModel(
    model_config=model_config(config, with_actions="action" in params),
    encoder=this.encoder,
    codec=this.codec,
    params=process.on_host(params),
    video_fps=config.data.video_fps,
    frame_size=parts.picture_size(next(iter(this.sources.values())), config.stages[config.order[-1]].resolution),
    clip_frames=config.data.frames,
    action_horizon=config.data.action_horizon,
    max_delay=config.train.max_delay,
    video_times=config.model.video_times,
    action_times=config.model.action_times if "action" in params else (),
    embodiments=dict(this.normalizers),
  )
  if process.is_first():
    saved_model.save(folder, saved)
  process.wait_for_all(folder.name)
