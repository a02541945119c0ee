"""Experiment configs: short programs, imported by nothing."""
