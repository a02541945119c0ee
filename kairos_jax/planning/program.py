"""The programs of a run as they are compiled for a slice: the real training step, and the real sampler of videos."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from data_pipelines.curriculum.buckets import SHORT_SIDE
from kairos_jax import assembly
from kairos_jax.errors import KairosError
from kairos_jax.flow.objective import Objective
from kairos_jax.flow.sampler import sample_video
from kairos_jax.flow.schedule import flow_schedule, video_shift
from kairos_jax.interfaces import Context, VideoCodec, num_latents
from kairos_jax.model import WorldActionConfig, WorldActionModel
from kairos_jax.model.world_action import init_params
from kairos_jax.parallel import rules
from kairos_jax.parallel.mesh import batch_sharding, check_batch
from kairos_jax.planning.work import Clip
from kairos_jax.training import adapted
from kairos_jax.training import state as state_lib
from kairos_jax.training.optimizer import make_optimizer
from kairos_jax.training.run_config import RunConfig, model_config, objective_config, parse_run, stage_steps
from kairos_jax.training.step import make_train_step

TEMPLATE = 97  # tokens of the prompt's template, which no context holds
WIDTHS = {"Qwen3.5-2B": 2048, "Qwen2.5-VL-7B-Instruct": 3584}  # of a context token, by the folder's name
Shapes = dict[str, Any]


class Program(NamedTuple):
  """What is compiled.

  Attributes:
    lowered: for the slice; compile it.
    clip: sizes of one clip.
    clips: in a run of the program, over all devices.
    towers, codec: shapes of the parameters, by part.
    pixels: shape of one clip's video; None where latents go in.
    bytes_by_kind: on each device: parameters, optimizer (moments and average), frozen, batch.
    trains: whether there is a gradient.
    passes: forward passes of each clip through the towers, of a sampler.
  """

  lowered: Any
  clip: Clip
  clips: int
  towers: Shapes
  codec: Shapes
  pixels: tuple[int, ...] | None
  bytes_by_kind: dict[str, int]
  trains: bool
  passes: int = 1


@dataclasses.dataclass(frozen=True)
class PlannedContexts:
  """Stands in for contexts that were computed before: a `ContextEncoder` whose tokens are contexts already."""

  tokens: int
  text_dim: int
  comes_trained: bool = False

  def init(self, key: Any) -> Shapes:
    """Nothing."""
    del key
    return {}

  def param_shapes(self) -> Shapes:
    """Of nothing."""
    return {}

  def tokenize(self, texts: Sequence[str], images: Sequence[np.ndarray] | None = None) -> Shapes:
    """Empty contexts."""
    del images
    shape = (len(texts), self.tokens)
    return {"tokens": np.zeros((*shape, self.text_dim), np.float32), "mask": np.ones(shape, bool)}

  def without_text(self, tokens: Mapping[str, Any]) -> Shapes:
    """In the same shapes."""
    return jax.tree.map(jnp.zeros_like, dict(tokens))

  def encode(self, params: Any, tokens: Mapping[str, Any]) -> Context:
    """As they are."""
    del params
    return Context(tokens["tokens"], tokens["mask"])


def parse(experiment: ConfigDict) -> tuple[RunConfig, PlannedContexts]:
  """A run's config where no weights are at hand, and contexts of the size that its encoder gives.

  Raises:
    KairosError: the config is not allowed, or its language model has a width that is not known.
  """
  config = ConfigDict(experiment.to_dict())
  bridge = dict(config.bridge)
  if bridge.get("kind") == "qwen":
    folder = os.path.basename(str(bridge["folder"]).rstrip("/"))
    if folder not in WIDTHS:
      raise KairosError(f"config key bridge.folder is {bridge['folder']!r}; a plan knows {', '.join(WIDTHS)}")
    contexts = PlannedContexts(bridge.get("tokens", 512) - TEMPLATE, WIDTHS[folder])
    config.bridge = ConfigDict(
      dict(kind="words", vocabulary=8, tokens=contexts.tokens, dim=8, text_dim=contexts.text_dim)
    )
  else:
    contexts = PlannedContexts(bridge.get("tokens", 16), assembly.make_encoder(bridge).text_dim)
  return parse_run(config), contexts


def picture(run: RunConfig, stage: str, size: tuple[int, int] | None) -> tuple[int, int]:
  """Height and width in pixels of a stage's pictures; of 16:9 where the config names a resolution alone."""
  if size is not None:
    return size
  resolution = run.stages[stage].resolution
  if resolution is None:
    raise KairosError(f"stages.{stage}.resolution is None: --height and --width say how large its pictures are")
  short = SHORT_SIDE[resolution]
  return short, {480: 832, 704: 1280}.get(short, round(short * 16 / 9 / 32) * 32)


def train_step(run: RunConfig, contexts: PlannedContexts, stage: str, mesh: Mesh, size: tuple[int, int]) -> Program:
  """The step of `training.loop` on a stage's longest clips, lowered for the mesh.

  Raises:
    KairosError: the stage distills or learns from rollouts, whose frozen networks are not counted yet.
  """
  if run.stages[stage].distill or run.stages[stage].nft or run.stages[stage].dpo:
    raise KairosError(f"stages.{stage}.distill, nft or dpo is set; a plan knows stages without them")
  towers, codec, config = model_config(run, with_actions=run.stages[stage].actions), assembly.make_codec(run.codec), run
  frames = max(run.stages[stage].frames or (run.data.frames,))
  adapters = run.stages[stage].lora
  scale = adapted.lora_of(adapters).scale if adapters else 1.0
  objective = Objective(WorldActionModel(towers), contexts, codec, objective_config(run, stage), scale)
  shapes = param_shapes(towers)
  whole = {**shapes, "codec": codec.param_shapes()}
  trained, frozen = _split(whole, run, stage)
  steps = stage_steps(run)[stage]
  stage_optimizer = run.stages[stage].optimizer
  warmup = min(stage_optimizer.warmup_steps, steps - 1)
  optimizer = make_optimizer(dataclasses.replace(stage_optimizer, warmup_steps=warmup), steps)
  state = jax.eval_shape(lambda p, key: state_lib.create(p, optimizer, key), trained, jax.random.key(0))
  lie = rules.sharding(mesh, state)
  state, frozen = _on(state, lie), _on(frozen, rules.sharding(mesh, frozen))
  check_batch(mesh, run.train.batch_size, run.train.grad_accum_steps)
  batch = _batch(run, contexts, towers, codec, frames, size)
  batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh)), batch)
  one = NamedSharding(mesh, PartitionSpec())
  number, limit, lr = (jax.ShapeDtypeStruct((), kind, sharding=one) for kind in (jnp.int32, jnp.float32, jnp.float32))
  step: Any = make_train_step(objective, optimizer, config.train.ema_decay, config.train.grad_accum_steps, lie)
  with jax.set_mesh(mesh):
    lowered = step.trace(state, frozen, batch, number, limit, lr).lower()
  optimizer_bytes = _bytes((state.ema, state.opt_state))
  kinds = dict(parameters=_bytes(state.params), optimizer=optimizer_bytes, frozen=_bytes(frozen), batch=_bytes(batch))
  chunks = run.train.chunks_per_clip if run.stages[stage].actions else 0
  rows = (size[0] // codec.space_stride, size[1] // codec.space_stride)
  clip = Clip(
    num_latents(codec, frames),
    towers.video.tokens_per_frame(*rows),
    contexts.tokens,
    chunks * run.data.action_horizon,
    chunks,
  )
  pixels = None if run.data.latents else (frames, *size, 3)
  return Program(lowered, clip, run.train.batch_size, shapes, whole["codec"], pixels, kinds, trains=True)


def sampler(
  run: RunConfig,
  contexts: PlannedContexts,
  stage: str,
  mesh: Mesh,
  size: tuple[int, int],
  *,
  steps: int = 50,
  dtype: Literal["bfloat16", "float32"] = "bfloat16",
) -> Program:
  """The guided sampler of one video, its weights in `dtype`, from noise to latents; the autoencoder is not in it."""
  towers, codec = model_config(run, with_actions=False), assembly.make_codec(run.codec)
  frames = num_latents(codec, max(run.stages[stage].frames or (run.data.frames,)))
  model = WorldActionModel(towers)
  shapes = param_shapes(towers)
  weights = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)
  weights = _on(weights, rules.sharding(mesh, weights))
  rows = (size[0] // codec.space_stride, size[1] // codec.space_stride)
  one = NamedSharding(mesh, PartitionSpec())

  def array(*shape: int, kind: Any = jnp.float32) -> Any:
    return jax.ShapeDtypeStruct(shape, kind, sharding=one)

  context = Context(array(1, contexts.tokens, contexts.text_dim), array(1, contexts.tokens, kind=bool))
  tokens = towers.video.tokens_per_frame(*rows)
  schedule = flow_schedule(steps, video_shift(tokens, frames))

  def run_sampler(params: Any, noise: Any, positive: Context, negative: Context) -> Any:
    return sample_video(model, params, noise, schedule, positive, guidance=5.0, negative=negative)[0]

  noise = array(1, frames, *rows, codec.channels)
  with jax.set_mesh(mesh):
    traced = jax.jit(run_sampler, donate_argnums=1).trace(weights, noise, context, context)
    lowered = traced.lower()
  clip = Clip(frames, tokens, contexts.tokens)
  kinds = dict(parameters=_bytes(weights), batch=_bytes((noise, context, context)))
  return Program(lowered, clip, 1, shapes, {}, None, kinds, trains=False, passes=2 * steps)


def param_shapes(towers: WorldActionConfig) -> Shapes:
  """Of all parameters; they are the same whatever kernels run."""
  action = towers.action and dataclasses.replace(towers.action, kernels="xla")
  plain = WorldActionConfig(dataclasses.replace(towers.video, kernels="xla"), action)
  return jax.eval_shape(lambda key: init_params(plain, key), jax.random.key(0))


def _split(whole: Shapes, run: RunConfig, stage: str) -> tuple[Shapes, Shapes]:
  """Shapes of what trains and of what is frozen."""
  return jax.eval_shape(lambda key: adapted.split(_zeros(whole), run.stages[stage], key), jax.random.key(0))


def _zeros(shapes: Shapes) -> Shapes:
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _on(shapes: Any, shardings: Any) -> Any:
  return jax.tree.map(lambda x, lie: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lie), shapes, shardings)


def _bytes(tree: Any) -> int:
  """On each device."""
  return sum(
    int(np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64)) * jnp.dtype(x.dtype).itemsize
    for x in jax.tree.leaves(tree)
  )


def _batch(
  run: RunConfig, contexts: PlannedContexts, towers: Any, codec: VideoCodec, frames: int, size: tuple[int, int]
) -> dict[str, Any]:
  """As the loader gives it; robots act at most as often as they are filmed."""
  count, steps = run.train.batch_size, frames - 1 + run.data.action_horizon

  def array(*shape: int, kind: Any = np.float32) -> Any:
    return jax.ShapeDtypeStruct((count, *shape), kind)

  tokens = {"tokens": array(contexts.tokens, contexts.text_dim), "mask": array(contexts.tokens, kind=bool)}
  batch = {"length": array(kind=np.int32), "tokens": tokens}
  if run.data.latents:
    rows = (side // codec.space_stride for side in size)
    batch["latents"] = array(num_latents(codec, frames), *rows, codec.channels, kind=np.float16)
  else:
    batch["video"] = array(frames, *size, 3, kind=np.uint8)
  if towers.action is not None:
    wide, states = towers.action.action_dim, towers.action.state_dim
    batch |= {name: array(steps, wide) for name in ("action", "executed")}
    batch |= {"action_mask": array(steps, wide, kind=bool)}
    batch |= {"state": array(frames, states), "state_mask": array(frames, states, kind=bool)}
    batch |= {"action_hz": array(), "fps": array()}
  return batch
