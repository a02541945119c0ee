"""A model of videos in which words decide, for prompts that are aligned with it: `kairos align`.

  kairos demo --out=runs/demo
  kairos data build --out=runs/data --counts=worded:2400
  kairos train --config=experiments/worded.py --workdir=runs/worded
  kairos align --model=runs/worded --out=runs/aligned

The demo's model goes on with clips of one arm beside a gray bar, of which the caption alone says what the arm does.

Result: docs/learning.md.
"""

from ml_collections import ConfigDict

from experiments import cue_reach


def get_config() -> ConfigDict:
  """The video tower alone, from the demo's model."""
  config = cue_reach.get_config()
  config.order = ("worded",)
  config.init_from = config.data.units = "runs/demo"
  config.data.update(sources=("worded",), frames=49)
  config.train.update(steps=2500, checkpoint_every=500, explode_factor=50.0)
  config.validation = None
  share = dict(worded=1.0)
  worded = config.stages.hand.to_dict()
  # Words matter most at the beginning: later, what was seen tells how it goes on.
  worded.update(share=1.0, mixture=dict(start=share, end=share), max_observed=2, crop="start")
  worded.update(tasks=dict(ti2v=1.0), optimizer=dict(peak_lr=3e-3, weight_decay=0.0))
  config.stages = ConfigDict(dict(worded=worded))
  return config
