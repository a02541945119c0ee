"""The training loop: one stage from its first step, or from wherever it was interrupted, to its last."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from kairos_jax.errors import KairosError
from kairos_jax.parallel.mesh import batch_sharding, fsdp_sharding
from kairos_jax.training import frozen as frozen_lib
from kairos_jax.training import guard
from kairos_jax.training import state as state_lib
from kairos_jax.training.checkpoint import Checkpoints
from kairos_jax.training.metrics import MetricLog, average
from kairos_jax.training.optimizer import make_optimizer
from kairos_jax.training.progress import Progress
from kairos_jax.training.run_config import OptimizerConfig, TrainConfig
from kairos_jax.training.step import LossFn, Metrics, make_train_step


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
def _sigterm_noted() -> Iterator[list[int]]:
  """Collects SIGTERM in a list instead of dying from it; raises Interrupted once the block has ended."""
  received = []
  previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
  try:
    yield received
  finally:
    signal.signal(signal.SIGTERM, previous)
  if received:
    raise Interrupted(128 + signal.SIGTERM)


def _to_devices(batch: dict[str, np.ndarray], mesh: Mesh, grad_accum_steps: int) -> dict[str, Array]:
  """Sends numbers to the devices; strings and other objects stay on the host."""
  size, parts = len(batch["id"]) * jax.process_count(), mesh.size * grad_accum_steps
  if size % parts:
    raise KairosError(f"batch size {size} is not a multiple of {parts} (devices x grad_accum_steps)")
  numbers = {name: value for name, value in batch.items() if value.dtype.kind in "biuf"}
  return {name: jax.make_array_from_process_local_data(batch_sharding(mesh), x) for name, x in numbers.items()}


def train(
  *,
  name: str,
  loss_fn: LossFn,
  params: PyTree[Array],
  frozen: PyTree[Array] = {},  # noqa: B006
  data: grain.DatasetIterator,
  config: TrainConfig,
  optimizer_config: OptimizerConfig,
  steps: int,
  workdir: Path | str,
  mesh: Mesh,
  seed: int = 0,
) -> PyTree[Array]:
  """Trains for `steps` updates; a run killed at any moment and started again gives the same numbers.

  Phases: plan the state's layout, restore or initialize, step, save. Writes `checkpoints/` and `metrics.jsonl` in
  `workdir`. A finished run returns at once.

  Args:
    name: of the stage, for the display.
    loss_fn: (params, batch, key) -> (scalar loss, dict of scalar metrics), see `step.make_train_step`.
    params: initial weights of what trains, left untouched.
    frozen: weights that `loss_fn` reads beside them: no gradient, no average, and their hash alone in a checkpoint.
    data: batches as dicts of numpy arrays [B, ...] with "id", the record ids; its position is saved and restored.
    config: of the run.
    optimizer_config, steps: of the stage.
    workdir: folder of the run.
    mesh: from `parallel.mesh.make_mesh`.
    seed: of the random keys given to `loss_fn`.

  Returns:
    The moving average of the weights.

  Raises:
    KairosError: if the loss is not finite or explodes once too often (see `guard`), the data ends early, the batch
      does not divide, or the checkpoint is of another model.
    Interrupted: after SIGTERM, with the state saved.
  """
  workdir = Path(workdir)

  # Plan: shapes and layout of the state, without allocating it.
  optimizer = make_optimizer(optimizer_config, steps)
  create = partial(state_lib.create, optimizer=optimizer, key=jax.random.key(seed))
  abstract = jax.eval_shape(create, params)
  sharding = fsdp_sharding(mesh, abstract)
  frozen = jax.device_put(frozen, fsdp_sharding(mesh, frozen))
  hashes = frozen_lib.content_hashes(frozen)
  train_step = make_train_step(loss_fn, optimizer, config.ema_decay, config.grad_accum_steps, sharding)

  with _sigterm_noted() as sigterm, Checkpoints(workdir / "checkpoints", config.max_to_keep) as checkpoints:
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

    with MetricLog(workdir, start) as log, Progress(name, start, steps) as progress:
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
        window.append(metrics)
        done = flight.number + 1
        progress.update(done, metrics)
        if done % config.log_every == 0 or done == steps:
          log.write(done, average(window) | recovery.logged())
          window.clear()
        return True

      # Step. The metrics of a step are read after the next one was dispatched, so that the device never waits.
      number, in_flight, again = start, None, None
      while number < steps:
        batch, again = again or next(data, None), None
        if batch is None:
          raise KairosError(f"{name}: the data ended after {number} of {steps} steps")
        limit = watch.limit()
        on_devices = _to_devices(batch, mesh, config.grad_accum_steps)
        state, metrics = train_step(state, frozen, on_devices, number, limit, recovery.lr_scale)
        if in_flight and not settle(in_flight):  # then the step just dispatched was refused too, for its number
          number, in_flight, again = in_flight.number, None, batch
          continue
        in_flight = _InFlight(number, limit, metrics, [str(record) for record in batch["id"]])
        number += 1

        # Save. Only what was judged is saved, so the step still in flight is waited for.
        if number % config.checkpoint_every == 0 or number == steps or sigterm:
          if not settle(in_flight):
            number -= 1
          in_flight = None
          meta = {"losses": watch.losses, "window": list(window), "recoveries": recovery.past, "frozen": hashes}
          checkpoints.save(state, meta, data)
          if sigterm:
            progress.announce(f"SIGTERM: saved step {number}; the same command goes on from there")
            break
  return state.ema
