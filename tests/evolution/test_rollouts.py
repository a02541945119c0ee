"""What is kept of an episode, and that it makes no difference which process runs it."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.engines.base import WorkerDied
from data_pipelines.engines.pool import HERE, Pool
from data_pipelines.simulate.cue_reach import CueReach
from kairos_jax import files
from kairos_jax.errors import KairosError
from kairos_jax.evolution import rollouts
from kairos_jax.evolution.rollouts import RollOut, roll_out
from kairos_jax.interop import saved_model
from kairos_jax.replay import Replay
from tests import tiny


def small(folder, episodes):
  """A model of random weights, on small pictures."""
  saved_model.save(folder / "model", dataclasses.replace(tiny.saved(), frame_size=(16, 16)))
  return RollOut(folder / "model", "m" * 64, "cue_reach", episodes, folder / "replay")


def test_an_episode_is_kept_with_what_was_seen_and_done(tmp_path, monkeypatch):
  """The model of random weights acts; its script, the expert, cannot be asked."""
  work, replay = small(tmp_path, 1), Replay(tmp_path / "replay")
  monkeypatch.setattr("data_pipelines.simulate.cue_reach.HORIZON", 8)
  roll_out(work, [3], HERE)
  ((clip, origin),) = replay.episodes("m" * 64, "cue_reach")
  assert origin.seed == 3 and not origin.success and clip.instruction == CueReach.instruction
  assert clip.frames == len(clip.state) == len(clip.action) + 1 == 9
  environment = CueReach(16)
  seen = environment.reset(3)
  for number, action in enumerate(clip.action):
    np.testing.assert_array_equal(clip.cameras["front"][number], seen.images["front"])
    np.testing.assert_array_equal(clip.state[number], seen.state)
    seen, _, _ = environment.step(action)
  with pytest.raises(KairosError, match="the expert is asked"):
    rollouts._no_expert()


def kept(work):
  return {path.name: files.sha256(path) for path in work.replay.rglob("*.clip")}


def several(name):
  if name == "processes":
    return Pool(2)
  pytest.importorskip("ray", reason="the extra ray is not installed")
  from data_pipelines.engines.cluster import Cluster

  return Cluster("local", 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["processes", "ray"])
def test_several_processes_keep_the_same_episodes(tmp_path, monkeypatch, name):
  engine = several(name)
  monkeypatch.setattr(rollouts, "_AT_ONCE", 2)
  alone, together = small(tmp_path / "alone", 5), small(tmp_path / "together", 5)
  roll_out(alone, [1, 2, 3, 4, 5], HERE)
  roll_out(together, [2, 4], HERE)  # a run that was killed
  roll_out(together, [1, 2, 3, 4, 5], engine)
  assert len(kept(alone)) == 5 and kept(alone) == kept(together)


def test_an_end_of_a_process_is_told_after_the_others_are_done(tmp_path):
  def engine(work, items):
    yield items[0], WorkerDied("a process died on [1]")
    yield items[1], [{"seed": 2, "success": True}]

  work = RollOut(tmp_path, "m" * 64, "cue_reach", 65, tmp_path / "replay")
  with pytest.raises(KairosError, match="64 episodes are missing, because a process died"):
    roll_out(work, range(65), engine)
