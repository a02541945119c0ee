"""No finished episode is lost, none is there twice, and none is half."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kairos_jax.errors import KairosError
from kairos_jax.replay import Replay
from tests.evolution.killed import ENVIRONMENT, MODEL, SEEDS, episode


def test_fifty_kills(tmp_path):
  command = [sys.executable, "-m", "tests.evolution.killed", str(tmp_path), "50"]
  subprocess.run(command, check=True, cwd=Path(__file__).parents[1], env=os.environ | {"JAX_PLATFORMS": "cpu"})
  told = [int(line) for line in (tmp_path / "told").read_text().split()]
  assert len(told) == len(set(told)), "an episode was run again after it was kept"
  kept = list(Replay(tmp_path).episodes(MODEL, ENVIRONMENT))
  assert [origin.seed for _, origin in kept] == list(SEEDS)
  for clip, origin in kept:
    expected, known = episode(origin.seed)
    assert origin == known
    np.testing.assert_array_equal(clip.cameras["front"], expected.cameras["front"])
    np.testing.assert_array_equal(clip.action, expected.action)


def test_what_is_kept_is_never_changed(tmp_path):
  replay, (clip, origin) = Replay(tmp_path), episode(7)
  assert replay.add(clip, origin) and replay.kept(MODEL, ENVIRONMENT) == {7}
  (path,) = tmp_path.rglob("*.clip")
  before = path.read_bytes()
  assert not replay.add(clip, origin) and path.read_bytes() == before
  assert replay.kept("0" * 64, ENVIRONMENT) == set() == replay.kept(MODEL, "fetch:pick-place")
  with pytest.raises(KairosError, match="provenance origin is .*'seed': 7.*; allowed: .*'seed': 8"):
    replay.add(clip, origin._replace(seed=8))
  path.rename(path.with_name("00000000000000000009.clip"))
  with pytest.raises(KairosError, match="00009.clip holds the episode .*'seed': 7"):
    list(replay.episodes(MODEL, ENVIRONMENT))
