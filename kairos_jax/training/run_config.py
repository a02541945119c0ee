"""One typed configuration of a run. Experiments stay short programs; what they return is parsed once, before any file.

`parse_run` refuses an unknown key, a value of another type and a value out of its range, in one line that names the
key, the value and what is allowed. The loop and the curriculum see these dataclasses alone.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from ml_collections import ConfigDict

from data_pipelines.curriculum.buckets import Resolution
from data_pipelines.curriculum.schedule import Mixture
from data_pipelines.sampling import Crop
from kairos_jax import assembly
from kairos_jax.errors import KairosError
from kairos_jax.flow.objective import ObjectiveConfig
from kairos_jax.flow.official import OfficialVideoObjective
from kairos_jax.interfaces import num_frames, num_latents
from kairos_jax.model import ActionConfig, VideoConfig, WorldActionConfig, WorldActionModel
from kairos_jax.model.config import named_dtype
from kairos_jax.training.metrics import loss_names
from kairos_jax.training.parse import OPERATIONAL, Range, operational_keys, parse, parse_fields, refused

Natural = Annotated[int, Range(0)]
Count = Annotated[int, Range(1)]
Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(0, exclusive=True)]
Weights = Mapping[str, Annotated[float, Range(0)]]


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """What is read: {folder}/{source} for each source, in samples of `frames` frames at `video_fps` Hz.

  Attributes:
    units: a saved model whose robots keep their units; None takes them from the statistics of the sources.
    latents: whether the folder holds latents in the place of pictures, see `kairos data latents`.
  """

  folder: str
  sources: tuple[str, ...]
  frames: Count
  video_fps: Positive
  action_horizon: Count
  units: str | None = None
  latents: bool = False


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The towers.

  Attributes:
    dtype: of the computation.
    kernels: which implementation of the operations runs, see `VideoConfig`.
    video_times, action_times: the steps of a tower that is a distilled student, timesteps before the shift.
    video, action: fields of `VideoConfig` and `ActionConfig` but those that follow from the rest of the config.
  """

  video: Mapping[str, Any]
  action: Mapping[str, Any]
  dtype: Literal["float32", "bfloat16", "float16"] = "float32"
  remat: Literal["none", "dots", "full"] = "none"
  kernels: Literal["auto", "xla", "pallas_tpu", "pallas_gpu"] = "auto"
  video_times: tuple[Annotated[float, Range(0, 1000)], ...] = ()
  action_times: tuple[Annotated[float, Range(0, 1000)], ...] = ()

  def times(self, tower: Literal["video", "action"]) -> tuple[float, ...]:
    """The steps of one of the towers."""
    return self.video_times if tower == "video" else self.action_times


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Sizes of the mesh's axes, see `parallel.mesh.make_mesh`; `fsdp` None takes the devices that the others leave.

  They decide where numbers are computed, not which: a run goes on with another mesh.
  """

  data: Annotated[int, Range(1), OPERATIONAL] = 1
  fsdp: Annotated[int | None, Range(1), OPERATIONAL] = None
  seq: Annotated[int, Range(1), OPERATIONAL] = 1
  tensor: Annotated[int, Range(1), OPERATIONAL] = 1


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW after a clip of the gradients' norm; see `optimizer.make_optimizer`."""

  peak_lr: Positive
  weight_decay: Annotated[float, Range(0)]
  schedule: Literal["cosine", "constant"]
  warmup_steps: Natural
  end_lr_factor: Share
  clip_norm: Positive
  b1: Share
  b2: Share


@dataclasses.dataclass(frozen=True)
class RecoveryConfig:
  """What happens where the loss is not finite or explodes, before the run is given up.

  The update was refused, so the state is the one from before it: the batch is left out and training goes on.

  Attributes:
    attempts: how often in a stage.
    lr_factor: each time, what the learning rate is multiplied with until the stage ends.
  """

  attempts: Count
  lr_factor: Annotated[float, Range(0, 1, exclusive=True)]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How long and how; `steps` are those of all stages. Operational fields may change when a run goes on.

  Attributes:
    text_dropout, action_weight, chunks_per_clip, max_delay: see `ObjectiveConfig`.
    explode_factor: a loss above this many times the running median is refused.
    max_to_keep: of the newest checkpoints.
    profile_steps: how many steps of each stage are traced, see `profile.traced`.
    hang_seconds: without progress, after which the run ends and says which process is behind, see `watch.Watch`.
  """

  steps: Count
  batch_size: Count
  ema_decay: Share
  explode_factor: Annotated[float, Range(1, exclusive=True), OPERATIONAL]
  log_every: Annotated[int, Range(1), OPERATIONAL]
  checkpoint_every: Annotated[int, Range(1), OPERATIONAL]
  max_to_keep: Annotated[int, Range(1), OPERATIONAL]
  profile_steps: Annotated[int, Range(0), OPERATIONAL] = 0
  hang_seconds: Annotated[int, Range(1), OPERATIONAL] = 1800
  grad_accum_steps: Count = 1
  text_dropout: Share = 0.1
  action_weight: Annotated[float, Range(0)] = 1.0
  chunks_per_clip: Count = 1
  max_delay: Natural = 0
  recovery: RecoveryConfig | None = None


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
  """Weights of the sources at a stage's start and end."""

  start: Weights
  end: Weights


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Adapters that train in the place of the parameters, see `model.lora`.

  Attributes:
    rank, alpha, targets: see `lora.Lora`.
    beside: patterns of parameters that train themselves beside the adapters, such as those of a robot of other joints.
  """

  rank: Count
  alpha: Positive
  targets: tuple[str, ...]
  beside: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class DistillConfig:
  """A student of few steps that learns from the tower as it is when the stage begins, see `training.distilling`.

  Attributes:
    tower: which one is distilled; its steps are those of `model.video_times` or `model.action_times`.
    guidance: of the teacher, on video.
    matching, consistency: weights of the two losses; without matching there is no critic.
    teacher_steps: levels of the teacher between which consistency is asked for.
    every: steps for one update of the student where it has a critic, which learns in every step.
    critic_lr: peak learning rate of the critic; the rest of its optimizer is that of the stage.
  """

  tower: Literal["video", "action"]
  critic_lr: Positive
  guidance: Annotated[float, Range(0)] = 1.0
  matching: Annotated[float, Range(0)] = 1.0
  consistency: Annotated[float, Range(0)] = 0.0
  teacher_steps: Count = 32
  every: Count = 5


@dataclasses.dataclass(frozen=True)
class NftConfig:
  """DiffusionNFT of the action tower, from the policy that it is when the stage begins.

  Attributes:
    beta: see `objectives.nft`.
    lost: sources whose clips went badly; those of all others went well.
  """

  beta: Positive
  lost: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class DpoConfig:
  """Flow-DPO of the video tower on pairs of videos, held to the tower that it is when the stage begins.

  Attributes:
    beta, supervised: see `objectives.preference`.
  """

  beta: Positive
  supervised: Annotated[float, Range(0)] = 1.0


@dataclasses.dataclass(frozen=True)
class StageConfig:
  """One stage.

  Attributes:
    share: of the run's steps.
    actions: whether the action tower trains too.
    mixture, crop, instruction_share, filters: see `data_pipelines.loader.make_loader`.
    frames: lengths of samples, each a shape that is compiled; empty is `data.frames` alone, the longest allowed.
    resolution, image_share: see `curriculum.buckets.Shapes`; None leaves each source's pictures as they are.
    tasks, min_observed, max_observed, decide: see `ObjectiveConfig`.
    objective: ours, or that of the reference's training code, see `flow.official`, which reads of these and of `train`
      no more than the tasks.
    optimizer: `config.optimizer` with what the stage says itself.
    frozen: patterns of the parameters that do not train in this stage, see `frozen.split`.
    distill: makes a student of one tower, while all parameters are frozen; None trains the towers.
    nft: trains the action tower on what it did itself, while all else is frozen; None trains by the objective.
    dpo: trains the video tower on pairs, see `training.improving`, while all else is frozen; None likewise.
    lora: adapters that train, while all parameters but those it names are frozen; None trains the parameters.
  """

  share: Positive
  actions: bool
  mixture: MixtureConfig
  instruction_share: tuple[Share, Share]
  tasks: Weights
  max_observed: Count
  crop: Crop
  optimizer: OptimizerConfig
  frozen: tuple[str, ...] = ()
  lora: LoraConfig | None = None
  distill: DistillConfig | None = None
  nft: NftConfig | None = None
  dpo: DpoConfig | None = None
  objective: Literal["kairos", "official_video"] = "kairos"
  frames: tuple[Count, ...] = ()
  resolution: Resolution | None = None
  image_share: Share = 0.0
  filters: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
  min_observed: Count = 1
  decide: Literal["any", "labeled"] = "any"


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
  """Losses on clips that never train, see `training.validation`.

  Attributes:
    source: whose last records are held out.
    clips: how many of them.
    levels: the noise levels at which video and actions are denoised.
    stages: in which there is a measurement.
    every: steps between two measurements.
    keep_best: the loss whose lowest value keeps a checkpoint, as "val/action"; None keeps none.
  """

  source: str
  clips: Count
  levels: tuple[Annotated[float, Range(0, 1, exclusive=True)], ...]
  stages: tuple[str, ...]
  every: Annotated[int, Range(1), OPERATIONAL]
  keep_best: Annotated[str | None, OPERATIONAL] = None


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """A run.

  Attributes:
    order: of the stages.
    codec, bridge: kind and options, see `kairos_jax.assembly`.
    mesh: how the devices share the work.
    init_from: a run's stage, a saved model or a released safetensors file to start from; of several, separated by
      commas, the first that has a part gives it.
    init_new: patterns of parameters that are made anew, though the start has them, such as those of other joints.
    context_cache: folder in which the contexts of all texts are kept, where the text encoder is frozen; None computes
      them in each step, see `training.contexts`.
    platform: where the run must be; None takes the one that JAX finds.
    validation: what is measured on held-out clips; with None, all clips train.
  """

  seed: Natural
  order: tuple[str, ...]
  data: DataConfig
  codec: Mapping[str, Any]
  bridge: Mapping[str, Any]
  model: ModelConfig
  train: TrainConfig
  stages: Mapping[str, StageConfig]
  mesh: MeshConfig = MeshConfig()
  init_from: str | None = None
  init_new: tuple[str, ...] = ()
  context_cache: str | None = None
  platform: Literal["cpu", "gpu", "tpu"] | None = None
  validation: ValidationConfig | None = None


OPERATIONAL_KEYS = frozenset(operational_keys(RunConfig))


def parse_run(config: ConfigDict) -> RunConfig:
  """The experiment's config, checked.

  Raises:
    KairosError: a key is unknown or missing, a value is not allowed, or two of them do not go together.
  """
  values = config.to_dict()
  shared = values.pop("optimizer", {})
  parse_fields(OptimizerConfig, shared, "optimizer", partial=True)  # so that a mistake is named where it was made
  if isinstance(stages := values.get("stages"), Mapping):
    values["stages"] = {name: _with_optimizer(stage, shared) for name, stage in stages.items()}
  run = parse(RunConfig, values, "")
  _check_names(run)
  if run.data.latents and run.validation:  # samples of a clip could be on both sides
    raise refused("validation", "set", "None where data.latents is True")
  _check_frames(run)
  _check_mesh(run)
  for name in run.order:
    _check_stage(run, name, run.stages[name])
  if run.validation:
    _check_validation(run, run.validation)
  stage_steps(run)
  return run


def stage_steps(run: RunConfig) -> dict[str, int]:
  """Optimizer steps of each stage, in order: `train.steps` split by the stages' shares.

  Raises:
    KairosError: shares do not sum to 1, or a stage would have no step.
  """
  shares = [run.stages[name].share for name in run.order]
  if abs(sum(shares) - 1) > 1e-6:
    raise KairosError(f"shares of the stages in config key order are {shares}; they must sum to 1")
  ends = [round(run.train.steps * total) for total in itertools.accumulate(shares)]
  steps = [end - start for start, end in itertools.pairwise([0, *ends])]
  if min(steps) < 1:
    raise KairosError(f"config key train.steps is {run.train.steps}; allowed: enough for {len(steps)} stages")
  return dict(zip(run.order, steps, strict=True))


def model_config(run: RunConfig, *, with_actions: bool) -> WorldActionConfig:
  """The towers that the config describes, as the model's own dataclasses.

  Raises:
    KairosError: an unknown or forbidden field, or sizes that do not go together.
  """
  shared = dict(
    dtype=named_dtype(run.model.dtype),
    remat=run.model.remat,
    kernels=run.model.kernels,
    text_dim=assembly.make_encoder(run.bridge).text_dim,
  )
  channels = assembly.make_codec(run.codec).channels
  video = _tower(VideoConfig, run.model.video, "model.video", {**shared, "channels": channels})
  if not with_actions:
    return WorldActionConfig(video=video, action=None)
  follows = {**shared, "attention_dim": video.dim, "heads": video.heads}
  return WorldActionConfig(video=video, action=_tower(ActionConfig, run.model.action, "model.action", follows))


def tower_fields(tower: Mapping[str, Any], name: Literal["video", "action"]) -> dict[str, Any]:
  """What a run's config says of a tower that has these fields: what `model_config` does not take from other keys."""
  follows = {"dtype", "remat", "kernels", "text_dim"}
  follows |= {"channels"} if name == "video" else {"attention_dim", "heads"}
  return {key: tuple(x) if isinstance(x, list) else x for key, x in tower.items() if key not in follows}


def objective_config(run: RunConfig, name: str) -> ObjectiveConfig:
  """What the stage trains."""
  stage = run.stages[name]
  return ObjectiveConfig(
    tasks=stage.tasks,
    text_dropout=run.train.text_dropout,
    min_observed=stage.min_observed,
    max_observed=stage.max_observed,
    action_horizon=run.data.action_horizon if stage.actions else 0,
    action_weight=run.train.action_weight,
    chunks_per_clip=run.train.chunks_per_clip,
    max_delay=run.train.max_delay if stage.actions else 0,
    decide=stage.decide,
  )


def _with_optimizer(stage: Any, shared: Mapping[str, Any]) -> Any:
  if not isinstance(stage, Mapping) or not isinstance(stage.get("optimizer", {}), Mapping):
    return stage
  return {**stage, "optimizer": {**shared, **stage.get("optimizer", {})}}


def _tower(kind: Any, values: Mapping[str, Any], key: str, follows: Mapping[str, Any]) -> Any:
  """A tower's config; `follows` are the fields that the rest of the config decides."""
  for name in values:
    if name in follows:
      raise KairosError(f"config key {key}.{name} is {values[name]!r}; allowed: nothing, it follows from other keys")
  fields = parse_fields(kind, values, key, partial=True)
  for name, value in fields.items():
    least = 0 if getattr(kind, name) == 0 else 1  # by default there are none
    if type(value) is int and value < least:
      raise KairosError(f"config key {key}.{name} is {value}; allowed: a whole number at least {least}")
  return kind(**fields, **follows)


_FOLDERS = ("model", "best")  # of a run, beside those of its stages


def _check_names(run: RunConfig) -> None:
  """That the stages to run, and their sources, are there under the names by which they are called."""
  if not run.order or len(set(run.order)) < len(run.order):
    raise KairosError(f"config key order is {run.order}; allowed: names of stages, each once, at least one")
  for name in run.order:
    if name in _FOLDERS:
      raise refused("order", run.order, f"other names than {' and '.join(_FOLDERS)}, which are folders of a run")
    if name not in run.stages:
      raise KairosError(f"config key order names {name!r}; allowed: {', '.join(run.stages)}")
    mixture = run.stages[name].mixture
    for end, weights in (("start", mixture.start), ("end", mixture.end)):
      if unknown := [source for source in weights if source not in run.data.sources]:
        allowed = ", ".join(run.data.sources)
        raise KairosError(f"config key stages.{name}.mixture.{end} names {unknown[0]!r}; allowed: {allowed}")


def _check_frames(run: RunConfig) -> None:
  """That samples of every length are whole latents, and none is longer than `data.frames`."""
  codec = assembly.make_codec(run.codec)
  lengths = [("data.frames", run.data.frames)]
  lengths += [(f"stages.{name}.frames", frames) for name in run.order for frames in run.stages[name].frames]
  for key, frames in lengths:
    if num_frames(codec, num_latents(codec, frames)) != frames or not codec.first_frames <= frames <= run.data.frames:
      allowed = f"{codec.first_frames} + a multiple of {codec.time_stride}, whole latents of the codec"
      raise KairosError(f"config key {key} is {frames}; allowed: {allowed}, at most data.frames {run.data.frames}")
  for name in run.order:
    if run.stages[name].image_share and run.stages[name].actions:
      raise refused(f"stages.{name}.image_share", run.stages[name].image_share, "0 where actions train")
    if run.stages[name].image_share and codec.first_frames > 1:
      raise refused(f"stages.{name}.image_share", run.stages[name].image_share, "0 with a codec that takes no image")


def _check_mesh(run: RunConfig) -> None:
  """That its axes divide what they cut of the model; `mesh.check_batch` knows the devices, which cut the batch."""
  mesh = run.mesh
  heads = model_config(run, with_actions=False).video.heads
  if heads % mesh.tensor:
    raise refused("mesh.tensor", mesh.tensor, f"a divisor of {heads}, the heads of model.video")
  latents = num_latents(assembly.make_codec(run.codec), run.data.frames)
  if mesh.seq > latents:
    raise refused("mesh.seq", mesh.seq, f"at most {latents}, the latent frames of data.frames {run.data.frames}")


def _check_stage(run: RunConfig, name: str, stage: StageConfig) -> None:
  """That what the stage is made of can be made."""
  if stage.lora and stage.frozen:
    raise refused(
      f"stages.{name}.frozen", stage.frozen, "() beside lora, which freezes all that lora.beside leaves out"
    )
  beside = stage.lora.beside if stage.lora else ()
  if run.data.latents and stage.dpo:  # its pairs are two videos in one picture
    raise refused(f"stages.{name}.dpo", stage.dpo, "None where data.latents is True")
  if run.context_cache and ("bridge/*" not in stage.frozen if not stage.lora else any("bridge" in x for x in beside)):
    raise refused("context_cache", run.context_cache, f"None, or 'bridge/*' among stages.{name}.frozen")
  try:
    Mixture(stage.mixture.start, stage.mixture.end)
    objective_config(run, name)
    if stage.objective == "official_video":
      if stage.actions:
        raise KairosError("actions is True; allowed: False, for objective official_video trains the video tower alone")
      towers = WorldActionModel(model_config(run, with_actions=False))
      OfficialVideoObjective(towers, assembly.make_encoder(run.bridge), assembly.make_codec(run.codec), stage.tasks)
  except KairosError as error:
    raise KairosError(f"config key stages.{name}: {error}") from None
  model_config(run, with_actions=stage.actions)
  if stage.distill:
    _check_distilling(run, name, stage, stage.distill)
  if stage.dpo and (stage.actions or stage.lora or stage.distill or stage.nft or stage.objective != "kairos"):
    raise refused(f"stages.{name}.dpo", stage.dpo, "without actions, lora, distill, nft and another objective")
  if stage.nft:
    if not stage.actions or stage.lora or stage.distill or run.train.max_delay:
      raise refused(f"stages.{name}.nft", stage.nft, "with actions, without lora, distill and train.max_delay")
    if unknown := [source for source in stage.nft.lost if source not in run.data.sources]:
      raise refused(f"stages.{name}.nft.lost", unknown[0], ", ".join(run.data.sources))


def _check_distilling(run: RunConfig, name: str, stage: StageConfig, distill: DistillConfig) -> None:
  """That there is something to distill, and nothing beside it that it does not know."""
  key = f"stages.{name}"
  times = run.model.times(distill.tower)
  if not times or list(times) != sorted(times, reverse=True) or len(set(times)) < len(times) or min(times) <= 0:
    raise refused(f"model.{distill.tower}_times", times, f"falling timesteps up to 1000, for {key} distills that tower")
  if stage.lora or stage.frozen or stage.objective != "kairos":
    raise refused(f"{key}.distill", distill, "None beside lora, frozen or another objective")
  if not distill.matching and not distill.consistency:
    raise refused(f"{key}.distill.matching", distill.matching, "above 0, or distill.consistency is")
  if (distill.tower == "action") != stage.actions:
    raise refused(f"{key}.actions", stage.actions, f"{not stage.actions}, for the {distill.tower} tower is distilled")
  if distill.tower == "action" and (run.train.max_delay or distill.guidance != 1.0):
    raise refused(f"{key}.distill.guidance", distill.guidance, "1 for actions, and a train.max_delay of 0")
  if run.validation and name in run.validation.stages:
    raise refused("validation.stages", run.validation.stages, f"stages but {name}, whose student has another loss")


def _check_validation(run: RunConfig, validation: ValidationConfig) -> None:
  """That its source, stages and best loss are there."""
  if validation.source not in run.data.sources:
    raise refused("validation.source", validation.source, ", ".join(run.data.sources))
  if not validation.stages or not set(validation.stages) <= set(run.stages):
    raise refused("validation.stages", validation.stages, f"some of {', '.join(run.stages)}")
  if not validation.levels or len(set(validation.levels)) < len(validation.levels):
    raise refused("validation.levels", validation.levels, "one or more noise levels, each once")
  measured = [loss_names(validation.levels, run.stages[name].actions) for name in validation.stages]
  allowed = [name for name in loss_names(validation.levels, True) if all(name in names for names in measured)]
  if validation.keep_best not in (None, *allowed):
    raise refused("validation.keep_best", validation.keep_best, f"None, {', '.join(allowed)}")
