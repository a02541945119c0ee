"""Mistakes a user makes on the command line are told in one line, and leave nothing that refuses the line put right."""

from pathlib import Path

import pytest

from kairos_jax import files
from kairos_jax.cli import main as cli
from kairos_jax.interop import saved_model
from kairos_jax.training import curriculum

EXPERIMENT = Path(__file__).parents[2] / "experiments/cue_reach.py"


@pytest.fixture
def fails(capsys):
  """Runs a command line that must fail; returns its one line."""

  def run(*argv):
    assert cli.main(list(argv)) == 2
    err = capsys.readouterr().err
    assert err.startswith("kairos: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err

  return run


@pytest.mark.parametrize(
  ("override", "line"),
  [
    ("seed=-1", "config key seed is -1; allowed: a whole number at least 0"),
    ("codec.channels=0", "codec.channels is 0; allowed: whole numbers from 1"),
    ("codec.channels=1000", "codec.channels is 1000; allowed: 1 to 192"),
    (
      "model.dtype=float31",
      "model.dtype is 'float31'; allowed: 'float32', 'bfloat16', 'float16'; did you mean float",
    ),
    ("model.dtype=int32", "model.dtype is 'int32'; allowed: 'float32', 'bfloat16', 'float16'"),
    ("model.remat=dot", "model.remat is 'dot'; allowed: 'none', 'dots', 'full'; did you mean dots?"),
    ("train.steps=2", "config key train.steps is 2; allowed: enough for 3 stages"),
  ],
)
def test_a_value_of_the_config(fails, tmp_path, override, line):
  workdir = tmp_path / "run"
  assert line in fails("train", f"--config={EXPERIMENT}", f"--workdir={workdir}", f"--config.{override}")
  assert not workdir.exists()


def test_a_source_that_is_not_there(fails, tmp_path):
  data = [f"--config.data.folder={tmp_path}", "--config.data.sources=('physics', 'hand', 'robot', 'robt')"]
  err = fails("train", f"--config={EXPERIMENT}", f"--workdir={tmp_path / 'run'}", *data)
  assert f"no dataset in {tmp_path}/physics: dataset.json is missing" in err
  assert not (tmp_path / "run").exists()


def test_a_workdir_that_is_a_file(fails, tmp_path, monkeypatch):
  monkeypatch.setattr(curriculum, "read_manifest", lambda folder: None)  # as if the data were there
  (tmp_path / "file").touch()
  err = fails("train", f"--config={EXPERIMENT}", f"--workdir={tmp_path / 'file'}")
  assert f"{tmp_path / 'file'} cannot hold a run: File exists" in err


@pytest.mark.parametrize("minutes", ["nan", "inf", "0", "-1"])
def test_minutes_that_are_no_duration(fails, tmp_path, tiny_saved, minutes):
  saved_model.save(tmp_path, tiny_saved)
  assert f"--minutes={minutes}" in fails("rollout", f"--model={tmp_path}", f"--minutes={minutes}")
  assert not (tmp_path / "rollout").exists()


def test_weights_that_lack_a_tensor(fails, tmp_path, tiny_saved):
  saved_model.save(tmp_path, tiny_saved)
  weights = files.read_safetensors(tmp_path / "weights.safetensors")
  name = sorted(name for name in weights if name.startswith("action/"))[3]
  del weights[name]
  files.write_safetensors(tmp_path / "weights.safetensors", weights)
  assert f"weights.safetensors lacks the weight {name!r}" in fails("evaluate", f"--model={tmp_path}")
