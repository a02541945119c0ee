"""The action tower in plain PyTorch gives our chunk, and a mistake in either is found; needs the extra `bench`."""

import numpy as np
import pytest

from kairos_jax.errors import KairosError
from kairos_jax.evaluation import action_step
from tests import tiny


def test_torch_denoises_the_same_chunk():
  pytest.importorskip("torch", reason="no torch; it comes with the extra [bench]")
  config = tiny.model_config(video_frames=3)
  given = action_step.inputs(config, history=3, side=4, actions=5, words=6)
  times = action_step.compare(config, given, steps=3, rounds=1)
  assert list(times) == ["ours", "torch"] and all(one.calls == 1 for one in times.values())
  other = {**given.params["action"], "head": {**given.params["action"]["head"], "bias": np.full(3, 1e-3, np.float32)}}
  schedule = action_step.flow_schedule(3, action_step.ACTION_SHIFT)
  off = action_step.torch_form(config, given._replace(params={**given.params, "action": other}), schedule)()
  assert np.abs(np.asarray(action_step.ours(config, given, schedule)()) - np.asarray(off)).max() > action_step.TOLERANCE


def test_without_torch_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr(action_step.peers, "absent", lambda module: f"{module} is not installed")
  with pytest.raises(KairosError, match="torch is not installed"):
    action_step.main(1)
