"""The towers and their mixture: pure-functional Flax modules. No files, no devices."""

from kairos_jax.model.config import ActionConfig, MixtureConfig, VideoConfig, named_config
from kairos_jax.model.memory import Memory
from kairos_jax.model.mixture import WorldActionModel

__all__ = ["ActionConfig", "Memory", "MixtureConfig", "VideoConfig", "WorldActionModel", "named_config"]
