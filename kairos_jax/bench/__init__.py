"""Benchmarks: what the model costs. No speed is printed of a wrong result."""
