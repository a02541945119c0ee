"""Does a policy get better by acting? Two ways of learning from its own episodes beside two controls, on rolling balls.

  kairos demo --out=runs/demo
  kairos evaluate --model=runs/demo --env=cue_reach:moving --policies=model --out=runs/evolution/base
  kairos ablate --config=experiments/evolve.py --out=runs/evolution/grid --resume

The base is the demo's model, whose demonstrations show balls at rest. Where they roll, one such model succeeded in 112
of 200 episodes (the second line), within the 0.4 to 0.7 that leave most to learn. Each arm has two rounds
of as many updates of the action tower. They are measured on 400 episodes of each seed, which no round rolls out and on
which none is accepted.

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
        model="runs/demo",
        demonstrations="runs/demo/data/robot",
        env="cue_reach:moving",
        rounds=2,
        episodes=200,  # that a round rolls out
        steps=300,
        learning_rate=5e-4,
        held_out=100,  # episodes, by which a round is accepted
      )
    )
  )
