"""The demo asks whether a folder is its own before it writes there."""

import pytest

from experiments import cue_reach
from kairos_jax.demo import run as demo
from kairos_jax.errors import KairosError
from kairos_jax.training import curriculum


def contents(folder):
  return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def test_another_runs_folder_is_refused_before_data_is_built(tmp_path):
  with curriculum.claim(cue_reach.get_config(), tmp_path):
    pass
  (tmp_path / "data/physics").mkdir(parents=True)
  (tmp_path / "data/physics/dataset.json").write_text("of the other run")
  before = contents(tmp_path)
  with pytest.raises(KairosError, match="was started with config"):
    demo.run(cue_reach.get_config(), tmp_path, demo.QUICK)
  assert contents(tmp_path) == before


def test_a_folder_in_use_is_refused_before_data_is_built(tmp_path):
  with curriculum.claim(cue_reach.get_config(), tmp_path):
    before = contents(tmp_path)
    with pytest.raises(KairosError, match="in use by process"):
      demo.run(cue_reach.get_config(), tmp_path, demo.QUICK)
    assert contents(tmp_path) == before
