"""The flags that say which processes do a work: of this machine, or of a Ray cluster."""

from typing import TYPE_CHECKING

from absl import flags

from kairos_jax.errors import KairosError

if TYPE_CHECKING:
  from data_pipelines.engines.base import Engine


def define_flags(table: flags.FlagValues, what: str, processes: int) -> None:
  """Adds them. `what` is done by so many `processes` unless told otherwise."""
  flags.DEFINE_enum("engine", "pool", ["pool", "ray"], f"{what}: what runs them", flag_values=table)
  flags.DEFINE_integer("processes", processes, f"{what}: at once", lower_bound=1, flag_values=table)
  flags.DEFINE_string("address", "local", "ray: of the cluster; local starts one on this machine", flag_values=table)


def define_model_flags(table: flags.FlagValues) -> None:
  """Adds those of works whose second step runs models."""
  flags.DEFINE_integer("models", 1, "ray: processes that hold models", lower_bound=1, flag_values=table)
  flags.DEFINE_string("takes", "", "ray: what each of these takes, as in GPU:1; else a processor", flag_values=table)


def of(values: flags.FlagValues) -> "Engine":
  """What the work runs on.

  Raises:
    KairosError: `--takes` is not of the form NAME:NUMBER.
  """
  if values.engine == "pool":
    from data_pipelines.engines.pool import Pool

    return Pool(values.processes)
  from data_pipelines.engines.cluster import Cluster

  if "takes" not in values:
    return Cluster(values.address, values.processes)
  name, _, amount = values.takes.partition(":")
  if values.takes and not (name and amount.isdecimal() and int(amount)):
    raise KairosError(f"--takes={values.takes} is not NAME:NUMBER of a resource of Ray, as in GPU:1 or TPU:4")
  return Cluster(values.address, values.processes, values.models, (name, int(amount)) if values.takes else None)
