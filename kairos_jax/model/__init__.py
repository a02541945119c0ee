"""The towers and the model they make together: pure-functional Flax modules. No files, no devices."""

from kairos_jax.model.config import ActionConfig, VideoConfig, WorldActionConfig, named_config
from kairos_jax.model.memory import Memory
from kairos_jax.model.world_action import WorldActionModel

__all__ = ["ActionConfig", "Memory", "WorldActionConfig", "VideoConfig", "WorldActionModel", "named_config"]
