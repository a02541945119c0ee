r"""Does a policy get better by acting? Two ways of learning from its episodes beside two controls, on rolling balls.

  kairos demo --out=runs/demo
  kairos data build --out=runs/few_data --counts=moving_robot:150
  kairos train --config=experiments/moving_targets.py --workdir=runs/few --config.data.folder=runs/few_data \
    --config.train.steps=1000 --config.train.max_delay=0
  kairos evaluate --model=runs/few --env=cue_reach:moving --policies=model --episodes=200 --out=runs/evolution/base
  kairos ablate --config=experiments/evolve.py --out=runs/evolution/grid --resume

The base was taught with few demonstrations: one such model succeeded in 127 of 200 episodes (the fourth line), within
the 0.4 to 0.7 that leave most to learn; with 2,400 demonstrations a model comes to 0.97. Each arm has two rounds of as
many updates of the action tower. They are measured on 400 episodes of each seed, which no round rolls out and on which
none is accepted.

Named before the run: `filtered` should win. It counts if, after the second round, it exceeds the better of
`demonstrations` and `placebo` by 0.08 with the lower end of the bootstrap over seeds above 0, in at least 4 of 5 seeds,
and is no more than 0.02 worse than after the first round.

Result: docs/learning.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The arms of `kairos_jax/evolution/arms.py`, and what they share."""
  return ConfigDict(
    dict(
      evolution=dict(
        expected="filtered",
        seeds=5,
        tested=400,  # episodes
        model="runs/few",
        demonstrations="runs/few_data/moving_robot",
        env="cue_reach:moving",
        rounds=2,
        episodes=200,  # that a round rolls out
        steps=300,
        learning_rate=5e-4,
        held_out=100,  # episodes, by which a round is accepted
      )
    )
  )
