"""Attention over windows of frames: sliding, dilated, full; with history that the future may look back to."""

from pallas_kernels.window_attention.api import action_attention, window_attention
from pallas_kernels.window_attention.visibility import MaskRule, Span, joint_mask

__all__ = ["MaskRule", "Span", "action_attention", "joint_mask", "window_attention"]
