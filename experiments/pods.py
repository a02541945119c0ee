"""The paper's curriculum on slices of accelerators: each of its stages with a mesh, a batch and remat that fit.

  kairos plan --config=experiments/pods.py:joint_480p --topology=v5p:4x4x4
  kairos train --config=experiments/pods.py:joint_480p --workdir=gs://BUCKET/joint_480p

The argument names a line of `RUNS`, the first line's `--topology` its slice. Learning rates and lengths are those of
`experiments/curriculum.py`; contexts are computed before (`config.context_cache`), and latents where a line says so.
Memory of a device and time of a step, by `kairos plan` of 2026-11-30 (docs/pods.md):

  images          6.2 of 17.2 GB     1.4 s
  mixed_256p     11.7 of 17.2 GB     2.7 s
  mixed_480p     37.8 of 102 GB      4.7 s    and, of the same shapes, human and motions
  mixed_720p     78.7 of 102 GB     13.4 s
  joint_256p      8.6 of 17.2 GB     1.9 s
  joint_480p     78.3 of 102 GB      3.3 s
  joint_480p_v5e 17.2 of 17.2 GB     2.6 s
  long_720p      89.7 of 102 GB     42.2 s
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments import curriculum


class Run(NamedTuple):
  """A stage on a slice."""

  stage: str
  topology: str
  mesh: dict[str, int]
  batch_size: int
  grad_accum_steps: int = 1
  remat: str = "full"
  changes: dict[str, Any] = {}  # noqa: RUF012
  latents: bool = False


JOINT_480P = dict(resolution="480P", frames=(81,))
RUNS = {
  "images": Run("images", "v5e:16x16", dict(fsdp=256), 2048),
  "mixed_256p": Run("low", "v5e:16x16", dict(fsdp=256), 256),
  "mixed_480p": Run("middle", "v5p:4x4x4", dict(fsdp=64), 64),
  "mixed_720p": Run("high", "v5p:4x4x4", dict(fsdp=64), 64),
  "long_720p": Run("long", "v5p:4x4x4", dict(fsdp=16, seq=4), 64, 4),
  "human": Run("human", "v5p:4x4x4", dict(fsdp=64), 64),
  "motions": Run("motions", "v5p:4x4x4", dict(fsdp=64), 64),
  "joint_256p": Run("robot", "v5e:16x16", dict(fsdp=256), 256),
  # On latents that were computed before, see `kairos data latents`. Half a clip on a device leaves room for what matrix
  # products give, so that they are not computed again.
  "joint_480p": Run("robot", "v5p:4x4x4", dict(fsdp=32, seq=2), 64, 2, "dots", JOINT_480P, latents=True),
  "joint_480p_v5e": Run("robot", "v5e:16x16", dict(fsdp=64, seq=4), 64, changes=JOINT_480P, latents=True),
}


def get_config(name: str = "joint_480p") -> ConfigDict:
  """`name`: one of `RUNS`."""
  if name not in RUNS:
    raise ValueError(f"no run {name!r}; there are {', '.join(RUNS)}")
  run = RUNS[name]
  config = curriculum.get_config("paper")
  config.mesh.update(run.mesh)
  config.train.update(batch_size=run.batch_size, grad_accum_steps=run.grad_accum_steps, chunks_per_clip=1)
  config.model.remat = run.remat
  config.order = (run.stage,)
  stage = config.stages[run.stage]
  stage.update(share=1.0, **run.changes)
  config.stages = ConfigDict({run.stage: stage})
  config.data.update(frames=max(stage.frames), latents=run.latents)
  return config
