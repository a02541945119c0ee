"""A trained model at work: prefill, act, imagine, extend, for a batch of streams or for slots of a pool."""

from kairos_jax.runtime.slots import Slots
from kairos_jax.runtime.stream import Stream
from kairos_jax.runtime.world_model import WorldModel, load

__all__ = ["Slots", "Stream", "WorldModel", "load"]
