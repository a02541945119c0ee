"""The loss of models of one shape on each of several datasets: clips, noise and levels are the same for all of them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from data_pipelines.curriculum.buckets import Shapes
from data_pipelines.curriculum.schedule import Mixture
from data_pipelines.held_out import hold_out
from data_pipelines.loader import make_loader
from data_pipelines.source import Source
from kairos_jax import seeds
from kairos_jax.flow.objective import Batch, Objective, ObjectiveConfig
from kairos_jax.interfaces import num_latents
from kairos_jax.interop.saved_model import SavedModel
from kairos_jax.model import ActionConfig, WorldActionModel
from kairos_jax.parallel.mesh import make_mesh
from kairos_jax.training.metrics import MEANS
from kairos_jax.training.stages import action_steps
from kairos_jax.training.validation import held_out_losses

Params = dict[str, Any]
LEVELS = (0.3, 0.6, 0.9)
_AT_ONCE = 8  # clips


def domain_losses(
  saved: SavedModel, sources: Mapping[str, Source], *, clips: int = 16, seed: int = 0
) -> Callable[[Params], dict[str, float]]:
  """Compiles, at the first call, the losses on the last `clips` records of each source.

  Args:
    saved: one of the models; of it all but the parameters is read.
    sources: datasets by name.
    clips: of each.
    seed: of the noise, and of the frames that are observed.

  Returns:
    params -> {"NAME video": loss, "NAME action": loss}; actions where the model acts and the clips have labels.

  Raises:
    KairosError: a source has no more clips than these, or does not fit the model.
  """
  measures = {name: _of_source(saved, name, source, clips, seed) for name, source in sources.items()}

  def losses(params: Params) -> dict[str, float]:
    return {
      f"{name} {mean.removeprefix('val/')}": values[mean]
      for name, measure in measures.items()
      for values in [measure(params)]
      for mean in MEANS
      if mean in values
    }

  return losses


def _of_source(
  saved: SavedModel, name: str, source: Source, clips: int, seed: int
) -> Callable[[Params], dict[str, float]]:
  _, held = hold_out(source, clips)
  objective, batch = of_clips(saved, name, held, clips, seed)
  noise = seeds.derive(seed, "domain", name, "noise")
  return held_out_losses(objective, batch, LEVELS, most=_AT_ONCE, seed=noise, mesh=make_mesh())


def of_clips(saved: SavedModel, name: str, source: Source, clips: int, seed: int) -> tuple[Objective, Batch]:
  """What a model is asked of robots' clips, with actions where it acts and they have any; and so many of the clips."""
  robot, frames = saved.model_config.action, saved.clip_frames
  acts = robot is not None and any(x.embodiment in saved.embodiments for x in source.contents.values())
  sizes = robot or ActionConfig()
  steps = action_steps(frames, saved.video_fps, saved.action_horizon, saved.embodiments)
  batch = next(
    make_loader(
      {name: source},
      Mixture({name: 1.0}, {name: 1.0}),
      batch_size=clips,
      shapes=Shapes({frames: steps}, None),
      video_fps=saved.video_fps,
      seed=seeds.derive(seed, "domain", name),
      tokenize=lambda text: jax.tree.map(lambda x: x[0], saved.encoder.tokenize([text])),
      steps=1,
      crop="start",
      instruction_share=(1.0, 1.0),
      state_dim=sizes.state_dim,
      action_dim=sizes.action_dim,
      normalizers=saved.embodiments,
    )
  )
  latents = num_latents(saved.codec, frames)
  config = ObjectiveConfig(
    tasks=dict(ti2v=1.0),
    max_observed=max(1, latents - 1) if saved.model_config.video.causal_history else 1,
    action_horizon=saved.action_horizon if acts else 0,
  )
  return Objective(WorldActionModel(saved.model_config), saved.encoder, saved.codec, config), batch
