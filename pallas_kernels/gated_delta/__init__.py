"""Gated delta rule: a matrix of keys and values is read and corrected token by token, and computed in chunks."""

from pallas_kernels.gated_delta.api import gated_delta
from pallas_kernels.gated_delta.convolution import short_convolution

__all__ = ["gated_delta", "short_convolution"]
