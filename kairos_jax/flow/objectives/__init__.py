"""What a trained flow learns further: from a teacher, from preferences, from rewards.

Each objective is a pure function of the parameters that learn, those that do not, data and a key. What a network reads
besides the noisy data, and which network it is, stands behind `terms.Velocity`, so that an objective is the same for
videos, for actions, and for the mixtures of Gaussians on which it is tested.
"""
