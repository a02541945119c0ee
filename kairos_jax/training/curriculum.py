"""The curriculum: one config, its stages one after the other, each from the last one's weights.

Source: Kairos section 3 (CEDC): I physics and II human behavior train the video tower alone, III the robot both.
"""

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from ml_collections import ConfigDict

from data_pipelines.curriculum import Mixture
from data_pipelines.loader import make_loader
from data_pipelines.normalize import Normalizer
from data_pipelines.reader import ReadReport, read
from data_pipelines.shards import statistics
from kairos_jax import codec as codec_lib
from kairos_jax.bridge import TextBridge, TextBridgeConfig
from kairos_jax.codec import PcaCodec
from kairos_jax.errors import KairosError
from kairos_jax.flow.objective import Objective, ObjectiveConfig
from kairos_jax.interop.saved_model import SavedModel
from kairos_jax.interop.saved_model import save as save_model
from kairos_jax.model import ActionConfig, VideoConfig, WorldActionConfig, WorldActionModel
from kairos_jax.model.initialize import interpolate_video
from kairos_jax.model.world_action import init_params
from kairos_jax.parallel.mesh import make_mesh
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
    KairosError: the folder belongs to another config, the data cannot be read, or training failed.
  """
  workdir = Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  claim_workdir(workdir, config)
  sources = {name: Path(config.data.folder) / name for name in config.data.sources}
  codec = _fitted_codec(workdir / "codec.safetensors", sources, config.codec.channels)
  robot = statistics(sources[config.data.robot])[config.data.robot]
  normalizers = {f"{name}_normalizer": Normalizer.from_statistics(robot[name]) for name in ("action", "state")}
  bridge = TextBridge(TextBridgeConfig(**config.bridge))

  params: Params | None = None
  for index, (name, steps) in enumerate(stage_steps(config).items()):
    logging.info("stage %s: %d steps", name, steps)
    stage = config.stages[name]
    towers = model_config(config, with_actions=stage.actions)
    model = WorldActionModel(towers)
    params = _grow(params, towers, bridge, jax.random.fold_in(jax.random.key(config.seed), index))
    objective = Objective(
      model,
      bridge,
      codec,
      ObjectiveConfig(
        tasks=stage.tasks.to_dict(),
        text_dropout=config.train.text_dropout,
        max_observed=stage.max_observed,
        action_horizon=config.data.action_horizon if stage.actions else 0,
        action_weight=config.train.action_weight,
        chunks_per_clip=config.train.chunks_per_clip,
      ),
      normalize_action=normalizers["action_normalizer"].normalize,
      normalize_state=normalizers["state_normalizer"].normalize,
    )
    report = ReadReport()
    data = make_loader(
      sources,
      Mixture(stage.mixture.start.to_dict(), stage.mixture.end.to_dict()),
      batch_size=config.train.batch_size // jax.process_count(),
      frames=config.data.frames,
      seed=config.seed + index,
      tokenize=bridge.tokenize,
      steps=steps,
      crop=stage.crop,
      instruction_share=tuple(stage.instruction_share),
      state_dim=config.model.action.state_dim,
      action_dim=config.model.action.action_dim,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      report=report,
    )
    params = train(
      name=name,
      loss_fn=objective,
      params=params,
      data=data,
      config=_loop_config(config, stage, steps),
      workdir=workdir / name,
      mesh=make_mesh(),
      seed=config.seed + index,
    )
    if report.shards_skipped or report.records_dropped:
      logging.warning("stage %s left out %d shards and %d records", name, report.shards_skipped, report.records_dropped)

  saved = SavedModel(
    model_config=model_config(config, with_actions=True),
    bridge=bridge.config,
    codec=codec,
    params=jax.device_get(params),
    fps=config.data.fps,
    clip_frames=config.data.frames,
    action_horizon=config.data.action_horizon,
    **normalizers,
  )
  save_model(workdir / "model", saved)
  return workdir / "model"


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
  dtype = dict(dtype=jnp.dtype(config.model.dtype).type, remat=config.model.remat, text_dim=config.bridge.text_dim)
  video = {**config.model.video.to_dict(), "layers": tuple(config.model.video.layers)}
  action = config.model.action.to_dict()
  return WorldActionConfig(
    video=VideoConfig(**video, channels=config.codec.channels, **dtype),
    action=ActionConfig(**action, attention_dim=video["dim"], heads=video["heads"], **dtype) if with_actions else None,
  )


def _grow(params: Params | None, towers: WorldActionConfig, bridge: TextBridge, key: jax.Array) -> Params:
  """The last stage's weights, with whatever is new in this one."""
  params = params or {}
  parts = ("bridge", "video", "action") if towers.action else ("bridge", "video")
  new = [name for name in parts if name not in params]

  @jax.jit
  def fresh(key: jax.Array, video: Params | None) -> Params:
    model_key, bridge_key = jax.random.split(key)
    tree = init_params(towers, model_key)
    tree["bridge"] = bridge.init(bridge_key, jnp.zeros((1, bridge.config.tokens), jnp.int32))["params"]
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


def _fitted_codec(path: Path, sources: dict[str, Path], channels: int) -> PcaCodec:
  """The run's codec, fitted once to the first clips of every source."""
  if not path.exists():
    clips = itertools.chain.from_iterable(
      (record.clip.video for record in itertools.islice(read(folder), CODEC_CLIPS)) for folder in sources.values()
    )
    codec_lib.save(codec_lib.fit((_whole_latents(clip) for clip in clips), channels), path)
  return codec_lib.load(path)


def _whole_latents(video):
  return video[: (len(video) - 1) // codec_lib.FRAMES * codec_lib.FRAMES + 1]
