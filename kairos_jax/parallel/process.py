"""Several processes, one run: all of them compute, one of them writes."""

import jax
from jax.experimental import multihost_utils


def is_first() -> bool:
  """Whether this process is the one that writes files."""
  return jax.process_index() == 0


def wait_for_all(name: str) -> None:
  """Returns once every process has come to the point called `name`."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)
