"""The training loop: one stage from its first step, or from wherever it was interrupted, to its last."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import grain
import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from kairos_jax.errors import KairosError
from kairos_jax.parallel import rules
from kairos_jax.parallel.watch import COMPILE, Watch
from kairos_jax.training import frozen as frozen_lib
from kairos_jax.training import guard
from kairos_jax.training import state as state_lib
from kairos_jax.training.batches import to_devices
from kairos_jax.training.best import BestCheckpoint
from kairos_jax.training.checkpoint import Checkpoints
from kairos_jax.training.in_turn import InTurn
from kairos_jax.training.metrics import MEANS, MetricLog, average
from kairos_jax.training.optimizer import make_optimizer
from kairos_jax.training.profile import traced
from kairos_jax.training.progress import Progress
from kairos_jax.training.run_config import OptimizerConfig, TrainConfig
from kairos_jax.training.step import LossFn, Metrics, make_train_step
from kairos_jax.training.validation import Validation


class Interrupted(SystemExit):
  """SIGTERM was received and the state saved. Uncaught it ends the process with code 143: start again to go on.

  143 is 128 + SIGTERM, as a shell gives it: a scheduler must not take an unfinished run for a finished one.
  """


class _InFlight(NamedTuple):
  """A step whose metrics were not read yet."""

  number: int
  limit: np.float32
  metrics: Metrics
  ids: list[str]  # of the batch's records


@contextmanager
def _sigterm_noted() -> Iterator[Callable[[int], bool]]:
  """Notes SIGTERM instead of dying from it; raises Interrupted once the block has ended.

  Yields:
    Whether the run is to stop before this step. Of several processes one signal is enough, and all stop before the
    same step: JAX's preemption service, which listens for the signal there, agrees on it.
  """
  received: list[int] = []
  if jax.process_count() > 1:

    def stopping(step: int) -> bool:
      if not received and multihost_utils.reached_preemption_sync_point(step):
        received.append(step)
      return bool(received)

    yield stopping
  else:
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
      yield lambda step: bool(received)
    finally:
      signal.signal(signal.SIGTERM, previous)
  if received:
    raise Interrupted(128 + signal.SIGTERM)


def train(
  *,
  name: str,
  loss_fn: LossFn | InTurn,
  params: PyTree[Array],
  frozen: PyTree[Array] = {},  # noqa: B006
  data: grain.DatasetIterator,
  config: TrainConfig,
  optimizer_config: OptimizerConfig | None = None,
  steps: int,
  workdir: Path | str,
  mesh: Mesh,
  seed: int = 0,
  validation: Validation | None = None,
) -> PyTree[Array]:
  """Trains for `steps` updates; a run killed at any moment and started again gives the same numbers.

  Phases: plan the state's layout, restore or initialize, step, validate, save. Writes `checkpoints/`, `metrics.jsonl`
  and, where validation keeps it, `best/` in `workdir`. A finished run returns at once.

  Args:
    name: of the stage, for the display.
    loss_fn: (params, batch, key) -> (scalar loss, dict of scalar metrics), see `step.make_train_step`; or several
      networks with their losses and optimizers, whose parameters lie under their names.
    params: initial weights of what trains, left untouched.
    frozen: weights that `loss_fn` reads beside them: no gradient, no average, and their hash alone in a checkpoint.
    data: batches as dicts of numpy arrays [B, ...] with "id", the record ids; its position is saved and restored.
    config: of the run.
    optimizer_config: of the stage; networks have their own.
    steps: of the stage.
    workdir: folder of the run.
    mesh: from `parallel.mesh.make_mesh`.
    seed: of the random keys given to `loss_fn`.
    validation: what is measured beside, on the averaged weights.

  Returns:
    The moving average of the weights.

  Raises:
    KairosError: if the loss is not finite or explodes once too often (see `guard`), the data ends early, the batch
      does not divide, or the checkpoint is of another model.
    Interrupted: after SIGTERM, with the state saved.
  """
  workdir = Path(workdir)

  # Plan: shapes and layout of the state, without allocating it.
  optimizer = _optimizer(loss_fn, optimizer_config, steps)
  create = partial(state_lib.create, optimizer=optimizer, key=jax.random.key(seed))
  abstract = jax.eval_shape(create, params)
  sharding = rules.sharding(mesh, abstract)
  params, frozen = rules.place(mesh, params), rules.place(mesh, frozen)
  hashes = frozen_lib.content_hashes(frozen)
  train_step = make_train_step(loss_fn, optimizer, config.ema_decay, config.grad_accum_steps, sharding)

  with (
    jax.set_mesh(mesh),
    _sigterm_noted() as stopping,
    Watch(config.hang_seconds) as clock,
    Checkpoints(workdir / "checkpoints", config.max_to_keep) as checkpoints,
    _best(workdir / "best", validation) as best,
  ):
    # Restore, or initialize.
    to_restore = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, sharding)
    if restored := checkpoints.restore(to_restore, data):
      state, meta = restored
      frozen_lib.check_hashes(meta["frozen"], hashes, str(workdir / "checkpoints"))
    else:
      state, meta = jax.jit(create, out_shardings=sharding)(params), {"losses": [], "window": [], "recoveries": []}
    start = int(state.step)
    watch = guard.LossGuard(config.explode_factor, meta["losses"])
    window = meta["window"]  # metrics of the steps since the last log line
    recovery = guard.Recovery(config.recovery, meta["recoveries"])

    with (
      MetricLog(workdir, start) as log,
      Progress(name, start, steps) as progress,
      traced(workdir / "profile", config.profile_steps) as stepped,
    ):
      progress.announce(f"step {start} of {steps}" + (f", restored from {workdir}" if start else f" in {workdir}"))

      def settle(flight: _InFlight) -> bool:
        """Reads a step's metrics (this waits for the device), judges and logs them; False if it is to be done anew."""
        metrics = {key: value.item() for key, value in jax.device_get(flight.metrics).items()}
        if reason := watch.judge(metrics, flight.limit):
          if not recovery.begin(flight.number, reason, flight.ids):
            guard.stop(workdir, state, reason, metrics, flight.ids)
          progress.announce(f"step {flight.number}: {reason}; {recovery}")
          return False
        del metrics["finite"]
        metrics = {key: value for key, value in metrics.items() if not np.isnan(value)}  # of a network out of turn
        window.append(metrics)
        done = flight.number + 1
        progress.update(done, metrics)
        if done % config.log_every == 0 or done == steps:
          log.write(done, average(window) | recovery.logged())
          window.clear()
        return True

      def validate(number: int) -> None:
        """Measures and logs the losses on held-out clips, and keeps the state if they are the best so far."""
        assert validation is not None
        begin = time.monotonic()
        losses = validation.losses(frozen_lib.merge(state.ema, frozen))
        log.write_validation(number, losses, time.monotonic() - begin)
        kept = best is not None and best.offer(state, losses)
        told = ", ".join(f"{name} {losses[name]:.4f}" for name in MEANS if name in losses)
        progress.announce(f"step {number} of {steps}: {told}" + (f"; kept in {workdir / 'best'}" if kept else ""))

      # Step. The metrics of a step are read after the next one was dispatched, so that the device never waits.
      number, in_flight, again = start, None, None
      while number < steps:
        clock.phase("data", number)
        batch, again = again or next(data, None), None
        if batch is None:
          raise KairosError(f"{name}: the data ended after {number} of {steps} steps")
        limit = watch.limit()
        clock.phase(COMPILE if number == start else "step", number)
        on_devices = to_devices(batch, mesh, config.grad_accum_steps)
        state, metrics = train_step(state, frozen, on_devices, number, limit, recovery.lr_scale)
        stepped(metrics)
        if in_flight and not settle(in_flight):  # then the step just dispatched was refused too, for its number
          number, in_flight, again = in_flight.number, None, batch
          continue
        in_flight = _InFlight(number, limit, metrics, [str(record) for record in batch["id"]])
        number += 1

        # Validate and save. Only what was judged is, so the step still in flight is waited for.
        stop = stopping(number)
        save = number % config.checkpoint_every == 0 or number == steps or stop
        measure = validation is not None and (number % validation.every == 0 or number == steps)
        if save or measure:
          accepted, in_flight = settle(in_flight), None
          if not accepted:
            number -= 1
          elif measure:
            clock.phase(COMPILE, number)
            validate(number)
        if save:
          clock.phase("checkpoint", number)
          if best:
            best.wait()
          meta = {"losses": watch.losses, "window": list(window), "recoveries": recovery.past, "frozen": hashes}
          checkpoints.save(state, meta, data)
          if stop:
            progress.announce(f"SIGTERM: saved step {number}; the same command goes on from there")
            break
      progress.announce(clock.spent())
  return state.ema


def _optimizer(loss_fn: LossFn | InTurn, config: OptimizerConfig | None, steps: int) -> optax.GradientTransformation:
  if isinstance(loss_fn, InTurn):
    return loss_fn.optimizer(steps)
  assert config is not None, "a loss without networks needs an optimizer"
  return make_optimizer(config, steps)


def _best(folder: Path, validation: Validation | None) -> AbstractContextManager[BestCheckpoint | None]:
  return BestCheckpoint(folder, validation.keep_best) if validation and validation.keep_best else nullcontext()
