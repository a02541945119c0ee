"""Language into context tokens, behind one interface: `tokenize` on the host, `encode` on the device."""

from kairos_jax.bridge.text import TextBridge, TextBridgeConfig

__all__ = ["TextBridge", "TextBridgeConfig"]
