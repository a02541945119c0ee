"""Attention over windows of frames: sliding, dilated, full; with history that the future may look back to."""

from pallas_kernels.window_attention.api import window_attention
from pallas_kernels.window_attention.visibility import Rule, Span, mixture_mask

__all__ = ["Rule", "Span", "mixture_mask", "window_attention"]
