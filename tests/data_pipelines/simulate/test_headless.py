import os
import subprocess
import sys

import pytest

from data_pipelines.simulate import headless
from kairos_jax.errors import KairosError


@pytest.mark.parametrize(("installed", "chosen"), [(("EGL", "OSMesa"), "egl"), (("OSMesa",), "osmesa")])
def test_the_backend_is_what_is_installed(monkeypatch, installed, chosen):
  monkeypatch.delenv("MUJOCO_GL", raising=False)
  monkeypatch.setattr(headless.sys, "platform", "linux")
  monkeypatch.setattr(headless.ctypes.util, "find_library", lambda name: name if name in installed else None)
  headless.load_mujoco()
  assert os.environ["MUJOCO_GL"] == chosen


def test_nothing_installed(monkeypatch):
  monkeypatch.delenv("MUJOCO_GL", raising=False)
  monkeypatch.setattr(headless.sys, "platform", "linux")
  monkeypatch.setattr(headless.ctypes.util, "find_library", lambda name: None)
  with pytest.raises(KairosError, match="apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri"):
    headless.load_mujoco()


def test_without_a_context_one_line_says_what_to_install():
  code = """
from data_pipelines.simulate.cue_reach import CueReach
from kairos_jax.errors import KairosError
try:
  CueReach()
except KairosError as error:
  print(error)
"""
  environment = {**os.environ, "MUJOCO_GL": "off"}
  run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
  assert run.stdout.startswith("no headless OpenGL for MuJoCo (MUJOCO_GL=off): apt-get install libegl1")
  assert len(run.stdout.splitlines()) == 1 and not run.stderr
