"""A policy that gets better by acting: rollouts, a replay that keeps them, refining, and a round's judgment."""
