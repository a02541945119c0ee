"""Training: the loop, its state, and what survives a crash."""

from kairos_jax.training.checkpoint import load_params
from kairos_jax.training.loop import Interrupted, train
from kairos_jax.training.workdir import claim_workdir

__all__ = ["Interrupted", "claim_workdir", "load_params", "train"]
