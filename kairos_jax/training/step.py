"""One compiled update: accumulate gradients, check them, step the optimizer, move the average."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from kairos_jax.training import frozen as frozen_lib
from kairos_jax.training.batches import Batch, microbatches
from kairos_jax.training.in_turn import InTurn
from kairos_jax.training.state import TrainState

Metrics = dict[str, Array]
LossFn = Callable[[PyTree[Array], Batch, PRNGKeyArray], tuple[Float[Array, ""], Metrics]]
TrainStep = Callable[..., tuple[TrainState, Metrics]]


_WHOLE = np.ones((), np.float32)  # learning rate


def ema_decay_at(step: Int[Array, ""] | int, decay: float) -> Float[Array, ""]:
  """Decay after `step` updates, min(decay, (1 + n) / (10 + n)): short runs are not stuck at their initial weights."""
  return jnp.minimum(decay, (1 + step) / (10 + step))


def _loss_and_gradients(
  loss_fn: LossFn, params: PyTree[Array], frozen: PyTree[Array], batch: Batch, key: PRNGKeyArray, grad_accum_steps: int
) -> tuple[Array, Metrics, PyTree[Array]]:
  """Means over the micro-batches; equal to one big batch where the loss is a plain mean over its samples."""

  def loss_of(params, *xs):
    return loss_fn(frozen_lib.merge(params, frozen), *xs)

  def add(total, xs):
    (loss, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, *xs)
    return jax.tree.map(jnp.add, total, gradients), (loss, metrics)

  zeros = jax.tree.map(jnp.zeros_like, params)
  xs = microbatches(batch, grad_accum_steps), jax.random.split(key, grad_accum_steps)
  gradients, (losses, metrics) = jax.lax.scan(add, zeros, xs)
  gradients = jax.tree.map(lambda g: g / grad_accum_steps, gradients)
  return losses.mean(), jax.tree.map(lambda m: m.mean(0), metrics), gradients


def make_train_step(
  loss_fn: LossFn | InTurn,
  optimizer: optax.GradientTransformation,
  ema_decay: float,
  grad_accum_steps: int,
  state_sharding: PyTree[NamedSharding] | None = None,
) -> TrainStep:
  """Compiles `train_step(state, frozen, batch, number, limit, lr_scale=1) -> (state, metrics)`; the state is donated.

  The update is applied only if the loss and the gradients' norm are finite, the loss is at most `limit`, and
  `state.step == number`. Otherwise the state comes back untouched, its step too. So once one update is refused, all
  later ones are, and a host that reads metrics one step late still holds the state from before the bad update.

  Args:
    loss_fn: (params, batch, key) -> (scalar loss, dict of scalar metrics); params are the state's and the frozen ones
      together, and only the state's have a gradient. Or several networks that learn in turn.
    optimizer: for example `optimizer.make_optimizer(...)`, or that of the networks.
    ema_decay: final decay of the moving average, see `ema_decay_at`.
    grad_accum_steps: number of micro-batches; divides the batch size.
    state_sharding: layout of the state, kept from step to step; None leaves it to the compiler.

  Returns:
    The step. Metrics are those of `loss_fn` plus "loss", "grad_norm" (before clipping) and "finite" (bool).
  """

  def train_step(
    state: TrainState,
    frozen: PyTree[Array],
    batch: Batch,
    number: Int[Array, ""],
    limit: Float[Array, ""],
    lr_scale: Float[Array, ""] = _WHOLE,
  ) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    now = loss_fn.at(state.step) if isinstance(loss_fn, InTurn) else loss_fn
    loss, metrics, gradients = _loss_and_gradients(now, state.params, frozen, batch, key, grad_accum_steps)
    grad_norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    # AdamW's update is the learning rate times the rest, its weight decay included.
    updates = jax.tree.map(lambda update: (update * lr_scale).astype(update.dtype), updates)
    params = optax.apply_updates(state.params, updates)
    decay = ema_decay_at(state.step, ema_decay)
    ema = jax.tree.map(lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype), state.ema, params)
    updated = TrainState(step=state.step + 1, params=params, ema=ema, opt_state=opt_state, key=state.key)

    accept = finite & (loss <= limit) & (state.step == number)
    state = jax.tree.map(lambda new, old: jnp.where(accept, new, old), updated, state)
    return state, metrics | {"loss": loss, "grad_norm": grad_norm, "finite": finite}

  return jax.jit(train_step, donate_argnums=0, out_shardings=(state_sharding, None))
