"""What each kind of memory is worth: towers of equal size and training on DelayedCueReach, success against the delay.

  kairos ablate --config=experiments/memory.py --seeds=3
  kairos ablate --config=experiments/memory.py --variants=swa,paper --cell=1/4
  kairos ablate --config=experiments/memory.py:swap --variants=anchors,paper --out=runs/swap
  kairos train --config=experiments/memory.py:paper --workdir=runs/paper   (after `kairos data build` of its source)

One of four colors is shown for 5 frames and asked for up to 96 frames later; a latent holds 4 frames and is one token
of the tower. A cell takes half a minute to a minute of one CPU core, and as long again where its shapes are compiled
for the first time. Actions read one latent frame, so that what they know lies in the tower, but for `reads_all`.

The order of the paper's layers ends with its delta net, whose output no layer of the same group reads, so a tower of
one group could not use it. Here, as in the demo's tower, the delta net comes first.

Result: docs/memory.md.
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

LATENTS = 34  # that the longest episode has: a window of so many frames is full attention, in a memory of fixed size
WINDOWS = ("SWA", "SWA", "DSWA", "SWA")
PAPER = ("GATED", "SWA", "DSWA", "SWA")

# What differs from the base config, in the towers and in training.
VARIANTS: dict[str, dict[str, Any]] = {
  "swa": dict(video=dict(layers=("SWA",) * 4)),
  "swa_dswa": dict(video=dict(layers=WINDOWS)),
  "paper": dict(),
  # The windows of this one see their own frame alone: actions read keys and values, which a delta net does not have.
  "gla": dict(video=dict(layers=("GATED", "GATED", "GATED", "SWA"), window_size=1)),
  "full": dict(video=dict(layers=("SWA",) * 4, window_size=LATENTS)),
  # Of what has left its windows this one sees the stream's first latent frame, where the color is shown.
  "anchors": dict(video=dict(layers=WINDOWS, anchors=1)),
  "reads_all": dict(video=dict(layers=WINDOWS), action=dict(video_frames=LATENTS)),
  "no_decay": dict(video=dict(decay=False)),
  "no_correction": dict(video=dict(correction=False)),
}
# Windows of other sizes and more training: Theorem 1 says that none of it helps. Not of the others' size.
SIZES: dict[str, dict[str, Any]] = {
  "swa_narrow": dict(video=dict(layers=("SWA",) * 4, dim=16, ffn_dim=32)),
  "swa_wide": dict(video=dict(layers=("SWA",) * 4, dim=64, ffn_dim=128)),
  "swa_long": dict(video=dict(layers=("SWA",) * 4), train=dict(steps=2400)),
}
# Other tasks, by name: their source, and what differs in the grid. With a swap a second color replaces the first.
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
  "swap": ("delayed4_swap", dict(swap=True)),
  "distract": ("delayed4_distract", dict(distract=True)),
  "colors8": ("delayed8", dict(colors=8)),
}


def get_config(name: str = "") -> ConfigDict:
  """The grid with all its variants, that of another task, or the training run of one variant.

  Raises:
    ValueError: there is no such task or variant.
  """
  if name and name not in TASKS | VARIANTS | SIZES:
    raise ValueError(f"name is {name!r}; allowed: {', '.join([*TASKS, *VARIANTS, *SIZES])}")
  source, task = TASKS.get(name, ("delayed4", {}))
  config = ConfigDict()
  config.seed = 0
  config.order = ("robot",)
  config.platform = placeholder(str)

  config.data = ConfigDict(
    dict(folder="runs/memory/data", sources=(source,), frames=125, video_fps=10.0, action_horizon=4)
  )
  config.codec = ConfigDict(dict(kind="pca", channels=16))
  config.bridge = ConfigDict(dict(kind="words", vocabulary=64, tokens=1, dim=8, text_dim=16))

  config.model = ConfigDict(dict(dtype="float32", remat="none", kernels="auto"))
  config.model.video = ConfigDict(
    dict(
      dim=32,
      ffn_dim=64,
      heads=2,
      layers=PAPER,
      window_size=3,
      dilation=4,
      causal_history=True,
      anchors=0,
      decay=True,
      correction=True,
      key_dim=8,
      value_dim=16,
      freq_dim=32,
    )
  )
  config.model.action = ConfigDict(dict(dim=24, ffn_dim=48, action_dim=3, state_dim=3, freq_dim=32, video_frames=1))

  config.train = ConfigDict(
    dict(
      steps=600,
      batch_size=8,
      text_dropout=0.0,
      action_weight=4.0,
      chunks_per_clip=4,
      ema_decay=0.99,
      explode_factor=50.0,
      log_every=50,
      checkpoint_every=200,
      max_to_keep=1,
    )
  )
  config.validation = None
  config.optimizer = ConfigDict(
    dict(schedule="cosine", warmup_steps=50, end_lr_factor=0.05, clip_norm=1.0, b1=0.9, b2=0.99)
  )
  robot = dict(
    share=1.0,
    actions=True,
    mixture=dict(start={source: 1.0}, end={source: 1.0}),
    instruction_share=(1.0, 1.0),
    tasks=dict(ti2v=1.0),
    min_observed=LATENTS,  # all of a clip but its last latent frame
    max_observed=LATENTS,
    decide="labeled",
    crop="start",
    optimizer=dict(peak_lr=4e-3, weight_decay=1e-2),
    frozen=(),
  )
  config.stages = ConfigDict(dict(robot=robot))
  if name in VARIANTS | SIZES:
    for part, values in (VARIANTS | SIZES)[name].items():
      dict(video=config.model.video, action=config.model.action, train=config.train)[part].update(values)
  else:
    config.ablation = ConfigDict(
      dict(
        variants=VARIANTS | SIZES,
        clips=1500,
        size=16,  # pixels
        **(dict(colors=4, distract=False, swap=False) | task),
        delays=(0, 8, 16, 24, 32, 40, 48, 64, 96),  # frames
        episodes=32,  # for each delay
      )
    )
  return config
