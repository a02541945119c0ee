"""Attention over windows of frames: sliding, dilated, full; with history that the future may look back to."""

from pallas_kernels.window_attention.api import action_attention, window_attention
from pallas_kernels.window_attention.visibility import Rule, Span, mixture_mask

__all__ = ["Rule", "Span", "action_attention", "mixture_mask", "window_attention"]
