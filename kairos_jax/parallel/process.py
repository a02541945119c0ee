"""Several processes, one run: all of them compute, one of them writes, and all of them end together."""

import itertools
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from kairos_jax.errors import KairosError

WAIT_SECONDS = 45  # for hosts that should be there
LOST_SECONDS = 30  # after which a host that says nothing is lost
_ADDRESS, _COUNT, _INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_agreements = itertools.count()


def connect(environment: Mapping[str, str] = os.environ) -> None:
  """Joins the other processes of the run, if the environment says that there are others; before any device is used.

  TPU pods, GKE and Slurm say so themselves. Elsewhere three variables do: JAX_COORDINATOR_ADDRESS (host:port of the
  first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID.

  Raises:
    KairosError: a variable is missing or no number, or they cannot be joined. Where some do not come in time, the
      process ends with that line: what waits for them cannot be interrupted.
  """
  options: dict[str, Any] = {}
  if any(name in environment for name in (_ADDRESS, _COUNT, _INDEX)):
    for name in (_ADDRESS, _COUNT, _INDEX):
      if name not in environment:
        raise KairosError(f"{name} is not set; several processes need {_ADDRESS}, {_COUNT} and {_INDEX}")
    try:
      count, index = int(environment[_COUNT]), int(environment[_INDEX])
    except ValueError:
      raise KairosError(
        f"{_COUNT} and {_INDEX} are {environment[_COUNT]!r} and {environment[_INDEX]!r}; allowed: numbers"
      ) from None
    if not 0 <= index < count:
      raise KairosError(f"{_INDEX} is {index}; allowed: 0 to {count - 1}, below {_COUNT}")
    options = dict(coordinator_address=environment[_ADDRESS], num_processes=count, process_id=index)
  elif not _of_many(environment):
    return
  where = environment.get(_ADDRESS, "the cluster's first host")
  names = (_INDEX, "SLURM_PROCID", "TPU_WORKER_ID")
  first = next((environment[name] for name in names if name in environment), "") == "0"
  # Where the first one leaves, the others are ended before they can speak.
  seconds = WAIT_SECONDS + (10 if first else 0)
  line = f"{host()}: not all processes met at {where} within {seconds} s"
  late = threading.Timer(seconds, _give_up, [line])
  late.daemon = True
  late.start()
  try:
    jax.distributed.initialize(
      **options,
      initialization_timeout=2 * WAIT_SECONDS,
      heartbeat_timeout_seconds=LOST_SECONDS,
      shutdown_timeout_seconds=30,
    )
  except (RuntimeError, ValueError) as error:
    reason = next(iter(str(error).splitlines()), "")
    raise KairosError(f"{line}: {reason[:160]}") from None
  finally:
    late.cancel()


def _give_up(line: str) -> None:
  print(f"kairos: {line}", file=sys.stderr, flush=True)
  os._exit(2)


def host() -> str:
  """This machine and process, for messages."""
  return (
    f"host {socket.gethostname()}, process {jax.process_index() if jax.distributed.is_initialized() else os.getpid()}"
  )


def is_first() -> bool:
  """Whether this process is the one that writes files."""
  return jax.process_index() == 0


def wait_for_all(name: str) -> None:
  """Returns once every process has come to the point called `name`."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def on_host(tree: PyTree[Any]) -> PyTree[np.ndarray]:
  """Arrays as numpy, whole on every process; those that are cut over processes are gathered one at a time."""

  def whole(x: Any) -> np.ndarray:
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
      return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)

  return jax.tree.map(whole, tree)


@contextmanager
def all_or_none(name: str, value: str = "") -> Iterator[None]:
  """A block after which all processes go on or none does: an error of one of them is raised by all.

  Args:
    name: of what is done, for errors.
    value: that must be the same on all processes; the first key that differs is told, if these are lines.

  Raises:
    KairosError: that of the first process that had one, a value differs, or a process did not come in time.
  """
  client = coordination()
  if client is None:
    yield
    return
  said = ""
  try:
    yield
  except KairosError as error:
    said = str(error)
  key = f"kairos/{next(_agreements)}/{name}"
  client.key_value_set(f"{key}/{jax.process_index()}", f"{said}\0{value}")
  found = []
  for index in range(jax.process_count()):
    try:
      found.append(client.blocking_key_value_get(f"{key}/{index}", WAIT_SECONDS * 1000).split("\0", 1))
    except jax.errors.JaxRuntimeError:
      raise KairosError(f"{name}: process {index} did not come within {WAIT_SECONDS} s") from None
  for index, (error_of, _) in enumerate(found):
    if error_of:
      raise KairosError(error_of if index == jax.process_index() else f"process {index}: {error_of}")
  for index, (_, theirs) in enumerate(found):
    if theirs != found[0][1]:
      pairs = itertools.zip_longest(found[0][1].splitlines(), theirs.splitlines(), fillvalue="nothing")
      first, other = next((a.strip(" ,"), b.strip(" ,")) for a, b in pairs if a != b)
      raise KairosError(f"{name} differs: process 0 has {first}, process {index} has {other}")


def coordination() -> Any:
  """Of the service that all processes are connected with; None in a run of one."""
  from jax._src import distributed

  return distributed.global_state.client if jax.process_count() > 1 else None


def _of_many(environment: Mapping[str, str]) -> bool:
  """Whether a cluster's own variables name more than one process."""
  tasks = environment.get("SLURM_NTASKS") or "1"
  if not tasks.isdecimal():
    raise KairosError(f"SLURM_NTASKS is {tasks!r}; allowed: a number")
  return (
    "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    or int(tasks) > 1
    or "MEGASCALE_COORDINATOR_ADDRESS" in environment
  )
