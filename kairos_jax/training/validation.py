"""Losses on held-out clips at fixed noise levels: no simulator is needed, and nothing but the weights changes them.

The observed frames, the noise and the frames after which actions are decided are drawn once, from the run's seed, and
no text is hidden. So two values of one stage differ by the weights alone.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from kairos_jax.flow.objective import Objective
from kairos_jax.parallel.mesh import batch_shards, check_batch, reader
from kairos_jax.training.batches import microbatches, to_devices
from kairos_jax.training.metrics import loss_names


@dataclasses.dataclass(frozen=True)
class Validation:
  """What the loop measures beside training.

  Attributes:
    losses: of all parameters, the averaged and the frozen ones together; by name.
    every: steps between two measurements; after the last step there is always one.
    keep_best: the loss whose lowest value keeps a checkpoint; None keeps none.
  """

  losses: Callable[[PyTree[Array]], dict[str, float]]
  every: int
  keep_best: str | None = None


def held_out_losses(
  objective: Objective, batch: Mapping[str, Any], levels: Sequence[float], *, most: int, seed: int, mesh: Mesh
) -> Callable[[PyTree[Array]], dict[str, float]]:
  """Compiles, at the first call, the losses of one batch of held-out clips.

  Args:
    objective: of the stage.
    batch: this process's share of the clips, from the loader.
    levels: noise levels of video and actions alike.
    most: clips that are computed at once, as many as training can.
    seed: of all else that chance decides.
    mesh: whose devices share the batch.

  Returns:
    params -> {name: value}, see `loss_names`.

  Raises:
    KairosError: the clips cannot be shared among the devices.
  """
  objective = dataclasses.replace(objective, config=dataclasses.replace(objective.config, text_dropout=0.0))
  names = loss_names(levels, bool(objective.config.action_horizon))
  clips, shards = len(batch["id"]) * reader(mesh)[1], batch_shards(mesh)
  check_batch(mesh, clips, key="validation.clips")
  sizes = (size for size in range(clips, 0, -shards) if clips % size == 0)
  parts = clips // next(size for size in sizes if size <= max(most, shards))
  on_devices = to_devices(batch, mesh, parts)

  @jax.jit
  def losses(params: PyTree[Array], batch: PyTree[Array], key: Array) -> list[Array]:
    def of_part(xs: tuple[PyTree[Array], Array]) -> dict[str, Array]:
      some, number = xs
      return objective.at_levels(params, some, jax.random.fold_in(key, number), jnp.asarray(levels, jnp.float32))

    by_level = jax.lax.map(of_part, (microbatches(batch, parts), jnp.arange(parts)))
    values = []
    for name in ("loss_video", "loss_action"):
      if name in by_level:
        mean = by_level[name].mean(axis=0)
        values += [*mean, mean.mean()]
    return values

  key = jax.random.key(seed)
  return lambda params: dict(zip(names, map(float, jax.device_get(losses(params, on_devices, key))), strict=True))
