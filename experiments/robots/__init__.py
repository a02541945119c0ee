"""Robots that ask a policy server: programs to copy and change."""
