"""One model on robots of other packages' simulators, from pixels: six tasks of Meta-World unless told otherwise.

  kairos data build --out=runs/robots_data --counts=metaworld:900 --size=64
  kairos train --config=experiments/manipulation.py --workdir=runs/metaworld
  kairos evaluate --model=runs/metaworld --env=metaworld --episodes=20

After a colon stand datasets, joined by "+", such as `experiments/manipulation.py:metaworld+fetch`. Robots that train
together need frames of one rate, so they are those that are controlled at 20 Hz. Needs the extra `robots`.

Result: docs/robots.md.
"""

from ml_collections import ConfigDict

from data_pipelines import embodiments
from experiments import cue_reach

ROBOTS = {  # embodiments of the datasets of `kairos data build`
  "robot": "slide_arm",
  "metaworld": "metaworld_sawyer",
  "fetch": "fetch_arm",
  "libero": "libero_franka",
}


def widths(datasets: tuple[str, ...]) -> dict[str, int]:
  """Dimensions of actions and states that hold those of all these datasets."""
  bodies = [embodiments.get(ROBOTS.get(name, name)) for name in datasets]
  return dict(action_dim=max(len(body.action) for body in bodies), state_dim=max(len(body.state) for body in bodies))


def get_config(robots: str = "metaworld") -> ConfigDict:
  """The robot's stage alone."""
  names = tuple(robots.split("+"))
  config = cue_reach.get_config()
  config.order = ("robot",)
  # Two seconds, nearly all of a demonstration: decisions have to be learned after as long a memory as they will have.
  config.data.update(folder="runs/robots_data", sources=names, video_fps=20.0, frames=45)
  config.codec.channels = 8
  config.model.action.update(widths(names))
  config.train.update(steps=4000, checkpoint_every=200)
  config.validation.source = names[0]
  share = dict.fromkeys(names, 1.0)
  robot = config.stages.robot
  robot.share = 1.0
  robot.resolution = "64P"  # pictures that two cameras share are twice as wide
  robot.max_observed = 11
  robot.mixture = ConfigDict(dict(start=share, end=share))
  return config
