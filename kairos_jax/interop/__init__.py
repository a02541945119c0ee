"""Weights in and out: the names of the reference, and the golden cases that prove the numbers."""
