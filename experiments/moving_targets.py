"""CueReach with rolling balls: what a chunk of actions is worth that comes late, and is continued in three ways.

  kairos demo --out=runs/demo
  kairos data build --out=runs/data --counts=moving_robot:2400
  kairos train --config=experiments/moving_targets.py --workdir=runs/moving
  kairos bench chunking --model=runs/moving --episodes=200

The model of the demo goes on with the balls moving, and is given the first 0 to 4 actions of each chunk as executed.
So the same weights are asked for chunks that know nothing of the one before, that are guided to it, and that begin with
it.

Result: docs/serving.md.
"""

from ml_collections import ConfigDict

from experiments import cue_reach


def get_config(data: str = "moving_robot") -> ConfigDict:
  """The robot's stage alone, from the demo's model; `data` is another dataset of rolling balls."""
  config = cue_reach.get_config()
  config.order = ("robot",)
  config.init_from = config.data.units = "runs/demo"
  config.data.update(sources=(data,), frames=49)  # a chase is long, and its memory has to have been that long
  config.train.update(steps=2500, checkpoint_every=500, explode_factor=50.0, max_delay=4)
  config.validation = None
  robot = config.stages.robot
  robot.share = 1.0
  robot.mixture = ConfigDict(dict(start={data: 1.0}, end={data: 1.0}))
  robot.update(min_observed=6, max_observed=12)
  robot.optimizer.peak_lr = 3e-3
  return config
