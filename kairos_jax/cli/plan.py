"""Says whether and how a run fits a slice of accelerators that is not here, before it is rented.

usage:
  kairos plan --config=experiments/pods.py:joint_480p --topology=v5p:4x4x4 [--slices=2] [--search] [--json]
  kairos plan --config=experiments/pods.py:joint_480p_v5e --config.mesh.fsdp=8 --topology=v5e:2x4 --what=sample

The real training step of a stage (or the real sampler of a video, with --what=sample) is compiled for the slice, with
its kernels and collectives; no accelerator is needed. Shown are the memory of a device, what each axis of the mesh
sends, operations by formula, and the step time and share of the peak (MFU) that follow from assumptions, which are
named. A program that does not fit ends with the reason and code 1.

  --search    compiles several meshes and remat policies and takes the fastest that fits
  --stage     of the config; the last one if none is named
  --height, --width   of the pictures; from the stage's resolution at 16:9 if not given
"""

import dataclasses
import json
from collections.abc import Sequence

from absl import flags

from kairos_jax.cli import arguments, operations
from kairos_jax.errors import KairosError


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the experiment's config, the slice and what to plan."""
  arguments.define_config(table, argv)
  flags.DEFINE_string("topology", None, "chip and shape, as v5p:4x4x4, v5e:16x16 or sm90:8", flag_values=table)
  flags.DEFINE_integer("slices", 1, "how many of them", lower_bound=1, flag_values=table)
  flags.DEFINE_enum("what", "train", ["train", "sample"], "which program", flag_values=table)
  flags.DEFINE_string("stage", None, "of the config", flag_values=table)
  flags.DEFINE_integer("height", None, "of the pictures, pixels", flag_values=table)
  flags.DEFINE_integer("width", None, "of the pictures, pixels", flag_values=table)
  flags.DEFINE_bool("search", False, "try several meshes and remat policies", flag_values=table)
  flags.DEFINE_bool("json", False, "print the plan as JSON", flag_values=table)


def run(values: flags.FlagValues, positional: list[str]) -> int:
  """Plans.

  Raises:
    KairosError: a flag is missing or wrong, or see `plan.make`.
  """
  if positional:
    raise KairosError(f"plan takes flags only; got {' '.join(positional)}")
  if values.config is None or values.topology is None:
    raise KairosError("plan needs --config=FILE.py and --topology=CHIP:SHAPE")
  operations.compile_for_others()
  from kairos_jax import console
  from kairos_jax.planning import plan, program, report, topology

  place = topology.find(values.topology, values.slices)
  config, contexts = program.parse(values.config)
  stage = values.stage or config.order[-1]
  if stage not in config.stages:
    raise KairosError(f"--stage is {stage!r}; allowed: {', '.join(config.order)}")
  if (values.height is None) != (values.width is None):
    raise KairosError("--height and --width go together")
  size = None if values.height is None else (values.height, values.width)
  if values.search:
    best, tried = plan.search(config, contexts, stage, place, what=values.what, size=size)
    if not values.json:
      console.show(report.table(tried))
  else:
    best = plan.make(config, contexts, stage, place, what=values.what, size=size)
  console.show(json.dumps(dataclasses.asdict(best), indent=2) if values.json else report.text(best))
  return 0 if best.fits else 1
