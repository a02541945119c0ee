"""One model of two robots, or one for each, at as many steps per robot.

The second robot has another color and camera, and the order of its commands is another.

  kairos data build --out=runs/two_robots --counts=robot:600,turned_robot:600
  for seed in 0 1 2; do for variant in robot turned_robot both; do
    run=runs/cross/$variant-$seed
    kairos train --config=experiments/cross_embodiment.py:$variant --config.seed=$seed --workdir=$run
    for robot in robot turned_robot; do
      kairos evaluate --model=$run --policies=model --robot_data=runs/two_robots/$robot --out=$run/$robot
    done
  done; done
  cat runs/cross/*/*/rates.json

A model of one robot on the other one is what it is worth there untaught.

Result: docs/robots.md.
"""

from ml_collections import ConfigDict

from experiments import cue_reach

ROBOTS = ("robot", "turned_robot")  # datasets
STEPS = 800  # for each robot


def get_config(variant: str = "both") -> ConfigDict:
  """`variant`: one of ROBOTS, or "both"."""
  if variant not in (*ROBOTS, "both"):
    raise ValueError(f"variant is {variant!r}; allowed: {', '.join(ROBOTS)}, both")
  names = ROBOTS if variant == "both" else (variant,)
  config = cue_reach.get_config()
  config.order = ("robot",)
  config.data.update(folder="runs/two_robots", sources=names)
  config.train.steps = STEPS * len(names)
  config.validation = None
  robot = config.stages.robot
  robot.share = 1.0
  share = dict.fromkeys(names, 1.0)
  robot.mixture = ConfigDict(dict(start=share, end=share))
  return config
