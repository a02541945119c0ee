"""The curriculum: one config, its stages one after the other, each from the last one's weights.

Source: Kairos section 3 (CEDC): I physics and II human behavior train the video tower alone, III the robot both.
"""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jax
from ml_collections import ConfigDict

from data_pipelines.shards import read_manifest
from kairos_jax import locations
from kairos_jax.errors import KairosError
from kairos_jax.parallel import process
from kairos_jax.parallel.mesh import check_batch, make_mesh
from kairos_jax.training.run_config import OPERATIONAL_KEYS, RunConfig, parse_run
from kairos_jax.training.stages import run_claimed
from kairos_jax.training.workdir import claim_workdir

__all__ = ["check", "claim", "run", "run_claimed"]


def run(experiment: ConfigDict, workdir: str | Path) -> Path:
  """Trains every stage of `config.stages` and writes the model to {workdir}/model.

  Finished stages are kept, an interrupted one goes on where it stopped.

  Args:
    experiment: see experiments/cue_reach.py; parsed before anything is written.
    workdir: folder of the run; belongs to one config.

  Returns:
    The model's folder.

  Raises:
    KairosError: the config is at fault or a dataset is not there (nothing was written then), the folder belongs to
      another config or process, the data cannot be read, or training failed.
  """
  told = json.dumps(experiment.to_dict(), indent=0, sort_keys=True, default=str)
  with process.all_or_none("config", told):
    config = check(experiment)
    if not Path(workdir, "config.json").exists():  # a new folder is not claimed by a mistake about the data
      _check_data(config)
  with claim(experiment, workdir):
    return run_claimed(config, Path(workdir))


def check(experiment: ConfigDict) -> RunConfig:
  """The config, parsed; KairosError if it is not allowed or not for this machine."""
  config = parse_run(experiment)
  if config.platform not in (None, jax.default_backend()):
    raise KairosError(f"config key platform is {config.platform!r}; this machine has {jax.default_backend()!r}")
  mesh = make_mesh(**dataclasses.asdict(config.mesh))
  check_batch(mesh, config.train.batch_size, config.train.grad_accum_steps)
  return config


@contextmanager
def claim(experiment: ConfigDict, workdir: Path | str) -> Iterator[RunConfig]:
  """Checks the config and, if it is allowed, holds the folder for the block; see `claim_workdir`."""
  with ExitStack() as held:
    with process.all_or_none("workdir"):
      config = check(experiment)
      held.enter_context(claim_workdir(workdir, dataclasses.asdict(config), OPERATIONAL_KEYS))
    yield config


def _check_data(config: RunConfig) -> None:
  """That every dataset is there, and clips are left to train where some are held out."""
  manifests = {name: read_manifest(locations.at(config.data.folder) / name) for name in config.data.sources}
  if validation := config.validation:
    records = sum(shard["records"] for shard in manifests[validation.source]["shards"])
    if validation.clips >= records:
      allowed = f"1 to {records - 1}, for {validation.source} has {records}"
      raise KairosError(f"config key validation.clips is {validation.clips}; allowed: {allowed}")
