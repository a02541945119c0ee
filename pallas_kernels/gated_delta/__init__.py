"""Gated delta rule: an associative memory read and corrected token by token, computed in chunks."""

from pallas_kernels.gated_delta.api import gated_delta

__all__ = ["gated_delta"]
