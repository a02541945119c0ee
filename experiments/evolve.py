"""Does a policy get better by acting? Two ways of learning from its own episodes beside two controls, on rolling balls.

  kairos demo --out=runs/demo
  kairos data build --out=runs/data --counts=moving_robot:300
  kairos train --config=experiments/evolve.py:base --workdir=runs/evolution/base
  kairos evaluate --model=runs/evolution/base --env=cue_reach:moving --policies=model
  kairos ablate --config=experiments/evolve.py --out=runs/evolution/grid --resume

The base is under-trained: 0.4 to 0.7 of its episodes are to succeed, which the fourth line shows. Each arm has two
rounds of as many updates of the action tower. They are measured on 400 episodes of each seed, which no round rolls out
and on which none is accepted.

Named before the run: `filtered` should win. It counts if, after the second round, it exceeds the better of
`demonstrations` and `placebo` by 0.08 with the lower end of the bootstrap over seeds above 0, in at least 4 of 5 seeds,
and is no more than 0.02 worse than after the first round.

Result: docs/learning.md.
"""

from ml_collections import ConfigDict

from experiments import cue_reach

BASE, DEMONSTRATIONS = "runs/evolution/base", "runs/data/moving_robot"


def get_config(what: str = "arms") -> ConfigDict:
  """`what`: "arms", the grid, or "base", the training run of the policy that all arms begin with."""
  if what == "base":
    return _base()
  if what != "arms":
    raise ValueError(f"what is {what!r}; allowed: arms, base")
  return ConfigDict(
    dict(
      evolution=dict(
        expected="filtered",
        seeds=5,
        tested=400,  # episodes
        model=BASE,
        demonstrations=DEMONSTRATIONS,
        env="cue_reach:moving",
        rounds=2,
        episodes=200,  # that a round rolls out
        steps=300,
        learning_rate=5e-4,
        held_out=100,  # episodes, by which a round is accepted
      )
    )
  )


def _base() -> ConfigDict:
  """The robot's stage alone, from the demo's model and in its units."""
  config = cue_reach.get_config()
  config.order = ("robot",)
  config.init_from = "runs/demo"
  config.data.sources = ("moving_robot",)
  config.data.units = "runs/demo"
  config.train.update(steps=150, checkpoint_every=150, explode_factor=50.0)
  config.validation = None
  robot = config.stages.robot
  robot.share = 1.0
  robot.mixture = ConfigDict(dict(start=dict(moving_robot=1.0), end=dict(moving_robot=1.0)))
  robot.optimizer.peak_lr = 1e-3
  return config
