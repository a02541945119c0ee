"""The paper's curriculum, stage by stage: images, open video at rising resolution, human behavior, robots together.

  kairos data build --out=runs/data --counts=physics:48,hand:48,robot:96
  kairos train --config=experiments/curriculum.py:small --workdir=runs/curriculum --config.train.steps=80
  kairos train --config=experiments/curriculum.py:small=robot+metaworld+fetch+libero --workdir=runs/robots

`small` runs on the embedded data and two cores: at 64P and up to 9 frames, its 80 steps take some minutes. After "="
stand the datasets of robots that train together in Stage III. Without an argument it is the whole curriculum on the
released model's shape, for accelerators: sources `physics` (open video and images, by kairos data curate), `hand`
(first and third person) and robots. A clip of 241 frames at 720P is 635 MB of pixels.

Learning rates, weight decays, resolutions and lengths are those of Kairos section 3, table of the CEDC. It names no
batch sizes and no steps, so that those here are placeholders. Model merging and DPO, between its stages, are other
commands.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments import cue_reach, manipulation

_TASKS = dict(t2v=0.3, ti2v=0.4, i2v=0.2, unconditional=0.1)
_LENGTHS = (17, 33, 49, 81)


def get_config(variant: str = "paper") -> ConfigDict:
  """`variant`: paper or small; then, after "=", datasets of robots, joined by "+"."""
  scale, _, names = variant.partition("=")
  if scale not in ("paper", "small"):
    raise ValueError(f"variant is {variant!r}; allowed: paper or small, then =DATASET+DATASET of robots")
  robots = tuple(names.split("+")) if names else ("robot",)
  config = cue_reach.get_config()
  config.data.sources = ("physics", "hand", *robots)
  config.validation = None
  config.optimizer.schedule = "constant"
  stages = _stages(robots)
  if scale == "small":
    for stage in stages.values():
      lengths = () if stage["actions"] else (1,) if stage["frames"] == (1,) else (5, 9)
      stage.update(frames=lengths, resolution="64P", filters={})
      stage["optimizer"]["peak_lr"] = 4e-3
    config.data.frames = 9
  else:
    config.data.update(frames=241, video_fps=16.0, action_horizon=32, latents=False)
    config.codec = ConfigDict(dict(kind="wan", weights="weights/Wan2.1_VAE.pth"))
    config.bridge = ConfigDict(dict(kind="qwen", folder="weights/Qwen3.5-2B"))
    config.context_cache = "runs/contexts"
    config.model = ConfigDict(dict(dtype="bfloat16", remat="full", kernels="auto", video={}, action={}))
    config.train.update(steps=100_000, batch_size=64, grad_accum_steps=8)
    for stage in stages.values():
      stage["frozen"] = ("bridge/*",)
  if names:
    config.model.action.update(manipulation.widths(robots))
  config.order = tuple(stages)
  config.stages = ConfigDict(stages)
  return config


def _stages(robots: tuple[str, ...]) -> dict[str, dict[str, Any]]:
  """The stages, whose shares sum to 1."""
  video, human = dict(physics=1.0), dict(hand=1.0)
  joint = {name: 1.0 / len(robots) for name in robots}
  return dict(
    images=_stage(0.1, 5e-5, 1e-3, video, frames=(1,), resolution="256P"),
    low=_stage(0.15, 4e-5, 1e-3, video, frames=_LENGTHS, resolution="256P", image_share=0.1),
    middle=_stage(0.1, 3e-5, 0.0, video, frames=_LENGTHS, resolution="480P", image_share=0.1),
    high=_stage(0.1, 2e-5, 0.0, video, frames=_LENGTHS, resolution="720P", image_share=0.1),
    long=_stage(0.05, 1e-5, 0.0, video, frames=(49, 81, 161, 241), resolution="720P", image_share=0.1),
    human=_stage(0.1, 1e-5, 0.0, human, frames=_LENGTHS, resolution="480P", filters=dict(seconds=(3.0, 15.0))),
    # Detailed captions give way to instructions.
    motions=_stage(
      0.1,
      5e-6,
      0.0,
      {**human, robots[0]: 1.0},
      joint,
      frames=_LENGTHS,
      resolution="480P",
      instruction_share=(0.0, 1.0),
      filters=dict(seconds=(5.0, 10.0)),
    ),
    robot=_stage(
      0.3,
      1e-4,  # not given by the paper; FastWAM's
      1e-2,
      joint,
      frames=(33,),
      resolution="256P",
      instruction_share=(1.0, 1.0),
      actions=True,
      tasks=dict(ti2v=1.0),
      crop="anywhere",
    ),
  )


def _stage(
  share: float, lr: float, decay: float, start: dict[str, float], end: dict[str, float] | None = None, **changes: Any
) -> dict[str, Any]:
  """One stage, whose mixture moves from `start` to `end`."""
  stage = dict(
    share=share,
    actions=False,
    mixture=dict(start=start, end=end or start),
    instruction_share=(0.0, 0.0),
    tasks=_TASKS,
    max_observed=1,
    crop="random",
    optimizer=dict(peak_lr=lr, weight_decay=decay),
    frozen=(),
    image_share=0.0,
    filters={},
  )
  return stage | changes
