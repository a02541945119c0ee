"""Trains a curriculum: every stage of an experiment config, one after the other, each from the last one's weights.

usage:
  kairos train --config=experiments/cue_reach.py --workdir=runs/cue_reach [--config.train.steps=1000 ...]

Every key of the config can be given on the command line, and is checked before anything is written. A run that was
killed, at any moment, goes on when the same line is given again; SIGTERM saves first and exits with code 143. A folder
is held by one process at a time and belongs to one config; train.log_every, checkpoint_every, max_to_keep,
profile_steps, hang_seconds and explode_factor, the mesh, and validation.every and keep_best, may change when a run goes
on.

  --config.init_from=PATH        starts from a run's stage, a saved model or a released safetensors file, and prints
                                 what was taken, grown or left
  --config.stages.NAME.frozen    patterns of parameters that do not train in a stage, as "('video/*',)"
  --config.train.recovery...     attempts, lr_factor: a batch whose loss is not finite or explodes is left out, and the
                                 learning rate lowered, so often before the run stops
  --config.validation...         clips that never train, and what is measured on them: docs/training.md
  --config.train.profile_steps=2 traces so many steps of each stage into its folder
  --config.mesh.seq=4            sizes of the mesh's axes data, fsdp, seq and tensor: docs/pods.md
  --config.model.kernels=xla     which implementation of the operations runs; --config.platform=gpu refuses to run
                                 elsewhere

The workdir holds a folder per stage (checkpoints, metrics.jsonl, best) and, at the end, the folders model and best (of
the last stage, where validation.keep_best names a loss), which kairos_jax.load reads.
"""

from collections.abc import Sequence

from absl import flags

from kairos_jax.cli import arguments
from kairos_jax.errors import KairosError


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the experiment's config and the folder of the run."""
  arguments.define_config(table, argv)
  flags.DEFINE_string("workdir", None, "folder of the run", flag_values=table)


def run(values: flags.FlagValues, positional: list[str]) -> None:
  """Trains.

  Raises:
    KairosError: a flag is missing, or see `curriculum.run`.
  """
  if positional:
    raise KairosError(f"train takes flags only; got {' '.join(positional)}")
  if values.config is None or values.workdir is None:
    raise KairosError("train needs --config=FILE.py and --workdir=FOLDER")
  from kairos_jax import console
  from kairos_jax.parallel import process
  from kairos_jax.training import curriculum

  process.connect()
  console.show(f"model: {curriculum.run(values.config, values.workdir)}")
