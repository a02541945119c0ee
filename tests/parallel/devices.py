"""Tests on eight simulated devices: a module of tests runs itself in a process that has them."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def run(module: str, *arguments: str, seconds: float = 300) -> str:
  """Standard output of `python -m module arguments`, run on eight devices; a failure fails the test with its errors."""
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
  command = [sys.executable, "-m", module, *arguments]
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)
  assert done.returncode == 0, done.stderr[-4000:]
  return done.stdout
