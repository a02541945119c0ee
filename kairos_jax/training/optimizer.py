"""AdamW with warm-up, gradient clipping, and weight decay on matrices only."""

import jax
import optax
from jaxtyping import Array, PyTree

from kairos_jax.errors import KairosError
from kairos_jax.training.run_config import OptimizerConfig

_DECAYED = ("kernel", "embedding")


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
  """Returns step -> learning rate: linear warm-up from 0, then constant or cosine down to `end_lr_factor` x peak.

  Args:
    config: see `make_optimizer`.
    steps: length of the run in updates, warm-up included.

  Raises:
    KairosError: for a warm-up that fills the whole run.
  """
  if not 0 <= config.warmup_steps < steps:
    raise KairosError(f"optimizer.warmup_steps is {config.warmup_steps}: allowed are 0 to {steps - 1} (steps - 1)")
  if config.schedule == "constant":
    after = optax.constant_schedule(config.peak_lr)
  else:
    after = optax.cosine_decay_schedule(config.peak_lr, steps - config.warmup_steps, alpha=config.end_lr_factor)
  if not config.warmup_steps:
    return after
  warmup = optax.linear_schedule(0.0, config.peak_lr, config.warmup_steps)
  return optax.join_schedules([warmup, after], [config.warmup_steps])


def decay_mask(params: PyTree[Array]) -> PyTree[bool]:
  """Marks the leaves that decay: those named "kernel" or "embedding".

  Decided by name, for under a scanned group biases and norm scales carry a layer axis and look like matrices.
  """
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in _DECAYED, params)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
  """Returns global-norm clipping followed by AdamW.

  Args:
    config: of the stage.
    steps: length of the run in updates.
  """
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.adamw(
      make_schedule(config, steps), b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=decay_mask
    ),
  )
