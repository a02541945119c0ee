"""A trained model at work: prefill, act, imagine, extend; and the closed loop with a robot."""

from kairos_jax.runtime.world_model import Stream, WorldModel, load

__all__ = ["Stream", "WorldModel", "load"]
