"""The whole curriculum on the embedded simulator: physics, hand, robot; the model behind `make demo`.

  kairos data build --out=runs/data --counts=physics:240,hand:240,robot:2400
  kairos train --config=experiments/cue_reach.py --workdir=runs/cue_reach

Numbers of a run, on 2 CPU cores: docs/results.md.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
  """A run is `config.train.steps` long; the stages of `config.order` divide it by their shares."""
  config = ConfigDict()
  config.seed = 0
  config.order = ("physics", "hand", "robot")
  config.init_from = placeholder(str)  # a run's stage, a saved model or a released file to start from
  config.platform = placeholder(str)  # "cpu", "gpu" or "tpu", where the run must be on it

  config.mesh = ConfigDict(dict(data=1, fsdp=placeholder(int), seq=1, tensor=1))  # fsdp None: all devices that are left

  config.data = ConfigDict(
    dict(
      folder="runs/data",
      sources=("physics", "hand", "robot"),
      frames=21,  # 6 latent frames
      video_fps=10.0,
      action_horizon=8,
    )
  )
  config.codec = ConfigDict(dict(kind="autoencoder", channels=6))
  config.bridge = ConfigDict(dict(kind="words", vocabulary=512, tokens=16, dim=48, text_dim=64))

  config.model = ConfigDict(dict(dtype="float32", remat="none", kernels="auto"))
  config.model.video = ConfigDict(
    dict(
      dim=96,
      ffn_dim=256,
      heads=4,
      layers=("GATED", "SWA", "SWA", "DSWA"),
      window_size=3,
      dilation=2,
      causal_history=True,
      key_dim=24,
      value_dim=24,
      freq_dim=96,
    )
  )
  config.model.action = ConfigDict(dict(dim=64, ffn_dim=192, action_dim=3, state_dim=3, freq_dim=96, video_frames=8))

  config.train = ConfigDict(
    dict(
      steps=4000,
      batch_size=8,
      grad_accum_steps=1,
      text_dropout=0.1,
      action_weight=2.0,
      chunks_per_clip=8,
      ema_decay=0.995,
      explode_factor=20.0,
      log_every=20,
      checkpoint_every=400,
      max_to_keep=2,
      profile_steps=0,
      hang_seconds=1800,
      recovery=dict(attempts=2, lr_factor=0.5),
    )
  )
  config.validation = ConfigDict(
    dict(source="robot", clips=16, levels=(0.3, 0.6, 0.9), stages=("robot",), every=200, keep_best="val/action")
  )
  config.optimizer = ConfigDict(
    dict(schedule="cosine", warmup_steps=50, end_lr_factor=0.05, clip_norm=1.0, b1=0.9, b2=0.99)
  )

  video_tasks = dict(t2v=0.2, ti2v=0.5, i2v=0.1, unconditional=0.1, image=0.1)
  physics = dict(
    share=0.05,
    actions=False,
    mixture=dict(start=dict(physics=1.0), end=dict(physics=0.9, hand=0.1)),
    instruction_share=(0.0, 0.0),
    tasks=video_tasks,
    max_observed=3,
    crop="random",
    optimizer=dict(peak_lr=4e-3, weight_decay=0.0),
    frozen=(),
  )
  hand = dict(
    share=0.05,
    actions=False,
    mixture=dict(start=dict(physics=0.2, hand=0.8), end=dict(hand=1.0)),
    instruction_share=(0.2, 0.8),
    tasks=video_tasks,
    max_observed=3,
    crop="random",
    optimizer=dict(peak_lr=4e-3, weight_decay=0.0),
    frozen=(),
  )
  robot = dict(
    share=0.9,
    actions=True,
    mixture=dict(start=dict(hand=0.1, robot=0.9), end=dict(robot=1.0)),
    instruction_share=(1.0, 1.0),
    tasks=dict(ti2v=1.0),
    max_observed=5,
    crop="anywhere",
    optimizer=dict(peak_lr=4e-3, weight_decay=1e-2),
    frozen=(),
  )
  config.stages = ConfigDict(dict(physics=physics, hand=hand, robot=robot))
  return config
