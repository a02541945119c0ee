"""What the large matrices of the towers read of real clips: second moments of their inputs.

The towers run as in training: frames and actions of many noise levels, after histories of many lengths.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Float

from data_pipelines.source import Source
from kairos_jax import seeds
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.domain_losses import of_clips
from kairos_jax.flow.objective import Objective
from kairos_jax.interop.saved_model import SavedModel
from kairos_jax.model import low_bit

CLIPS, AT_ONCE = 64, 4
_NAME = "moments"

Moments = dict[tuple[str, ...], Float[np.ndarray, "G N J J"]]


def input_moments(saved: SavedModel, source: Source, *, clips: int = CLIPS, seed: int = 0) -> Moments:
  """Mean x x^T of the inputs x of each large matrix, by its path, in blocks of `low_bit.block` inputs.

  Args:
    saved: a model whose matrices are whole.
    source: clips of what it will be used for.
    clips: how many of them are drawn.
    seed: of the draw, and of the noise.

  Raises:
    KairosError: the source does not fit the model, or has no clips of robots that it drives.
  """
  objective, batch = of_clips(saved, "calibration", source, clips, seed)
  acts = saved.model_config.action is not None
  if acts and not objective.config.action_horizon:
    raise KairosError(f"the clips to calibrate on are of none of the robots {', '.join(saved.embodiments)}")
  watching = _Watching(objective.model, objective.encoder, objective.codec, objective.config)

  @jax.jit
  def of(params: Any, batch: Any, key: Any) -> Any:
    watching.seen.clear()
    watching(params, batch, key)
    return watching.seen.pop()

  batch = {name: value for name, value in batch.items() if name != "id"}
  keys = jax.random.split(jax.random.key(seeds.derive(seed, "calibration", "noise")), -(-clips // AT_ONCE))
  total: dict[Any, Any] = {}
  for i, key in enumerate(keys):
    part = jax.tree.map(lambda x, begin=i * AT_ONCE: x[begin : begin + AT_ONCE], batch)
    for path, value in of(saved.params, part, key).items():
      total[path] = total.get(path, 0.0) + np.asarray(value, np.float64)
  return {path: value / len(keys) for path, value in total.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class _Watching(Objective):
  """A loss whose passes leave what they saw in `seen`."""

  seen: list[Any] = dataclasses.field(default_factory=list)

  def _apply(self, params: Any, *args: Any, **kwargs: Any) -> Any:
    with nn.intercept_methods(_watch):
      out, kept = self.model.apply({"params": params}, *args, mutable="intermediates", **kwargs)
    flat = flatten_dict(kept["intermediates"]) if kept else {}
    found = {(*path[:-1], "kernel"): value[0] for path, value in flat.items() if path[-1] == _NAME}
    if found:
      self.seen.append(found)
    return out


def _watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
  """Runs a layer, and keeps the moments of what a large matrix reads."""
  module = context.module
  if isinstance(module, nn.Dense) and low_bit.is_large((*module.path, "kernel")):
    x = args[0].astype(jnp.float32)
    x = x.reshape(-1, x.shape[-1] // low_bit.block(x.shape[-1]), low_bit.block(x.shape[-1]))
    moments = jnp.einsum("snj,snk->njk", x, x, precision=jax.lax.Precision.HIGHEST) / len(x)
    module.sow("intermediates", _NAME, moments)
  return call(*args, **kwargs)
