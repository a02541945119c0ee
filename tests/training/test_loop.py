import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from kairos_jax.errors import KairosError
from kairos_jax.parallel.mesh import make_mesh
from kairos_jax.training import Interrupted, load_params, train
from kairos_jax.training.run_config import RecoveryConfig
from tests.training import toy


def run(workdir, data=None, **changes):
  config = toy.make_config(**{"steps": 12, "log_every": 4, "checkpoint_every": 5} | changes)
  arguments = dict(name="toy", loss_fn=toy.loss_fn, params=toy.make_params(), workdir=workdir, **config)
  return train(data=data or toy.make_data(), mesh=make_mesh(), **arguments)


def records_of_batch(number):
  data = toy.make_data(records=1024)
  for _ in range(number):
    next(data)
  return [int(record.removeprefix("toy/")) for record in next(data)["id"]]


def test_trains_logs_and_returns_the_average(tmp_path, capsys):
  final = run(tmp_path)
  records = toy.losses(tmp_path)
  assert [record["step"] for record in records] == [4, 8, 12]
  assert set(records[0]) == {"step", "loss", "double_loss", "grad_norm"}
  np.testing.assert_allclose(records[0]["double_loss"], 2 * records[0]["loss"], rtol=1e-6)
  assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["10", "12"]
  jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path / "checkpoints"), jax.tree.map(np.array, final))
  assert "toy: step 0 of 12" in capsys.readouterr().out

  # Once more: finished, so nothing is read and nothing is written.
  lines = (tmp_path / "metrics.jsonl").read_text()
  again = run(tmp_path, data=toy.make_data(scale_of=lambda index: np.nan))
  jax.tree.map(np.testing.assert_array_equal, again, final)
  assert (tmp_path / "metrics.jsonl").read_text() == lines


def test_nan_batch_stops_before_its_update_and_names_its_records(tmp_path):
  records = records_of_batch(7)
  poisoned = toy.make_data(records=1024, scale_of=lambda index: np.nan if index == records[3] else 1.0)
  with pytest.raises(KairosError, match="after step 7: loss nan .*not finite.*failed-7") as error:
    run(tmp_path / "poisoned", data=poisoned)
  assert f"toy/{records[3]}" in str(error.value)
  failure = json.loads((tmp_path / "poisoned/failure.json").read_text())
  assert failure["step"] == 7 and failure["metrics"]["loss"] == "nan"
  assert failure["ids"] == [f"toy/{index}" for index in records]
  # The state kept is the one that a run without that record has after as many steps.
  run(tmp_path / "clean", data=toy.make_data(records=1024), checkpoint_every=7)
  shutil.rmtree(tmp_path / "clean/checkpoints/12")
  kept, expected = (load_params(tmp_path / folder) for folder in ("poisoned/failed-7", "clean/checkpoints"))
  jax.tree.map(np.testing.assert_array_equal, kept, expected)


@pytest.mark.parametrize("damaged", [["12"], ["10", "12"]])
def test_training_goes_on_from_before_a_damaged_checkpoint(tmp_path, damaged):
  expected = run(tmp_path)
  metrics = toy.losses(tmp_path)
  for step in damaged:
    (tmp_path / "checkpoints" / step / "state/manifest.ocdbt").write_bytes(b"")
  again = run(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, again, expected)
  assert toy.losses(tmp_path) == metrics
  left = {"10", "12", *(f"{step}.damaged" for step in damaged)}
  assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == left


def test_exploding_loss_stops(tmp_path):
  records = records_of_batch(60)
  data = toy.make_data(records=1024, scale_of=lambda index: 100.0 if index in records else 1.0)
  with pytest.raises(KairosError, match="after step 60: loss .* exceeds .*20 x the median"):
    run(tmp_path, data=data, steps=100, log_every=20, checkpoint_every=100)


RECOVERY = RecoveryConfig(attempts=2, lr_factor=0.5)


def poisoned(*numbers):
  bad = {records_of_batch(number)[3] for number in numbers}
  return toy.make_data(records=1024, scale_of=lambda index: np.nan if index in bad else 1.0)


def weights(folder):
  return load_params(folder / "checkpoints", "params")


def test_a_refused_batch_is_left_out_and_the_run_goes_on_with_a_smaller_learning_rate(tmp_path, capsys):
  run(tmp_path, data=poisoned(6, 7), recovery=RECOVERY)
  records = toy.losses(tmp_path)
  assert [(record["step"], record.get("lr_scale")) for record in records] == [(4, None), (8, 0.25), (12, 0.25)]
  assert not (tmp_path / "failure.json").exists()
  out = capsys.readouterr().out
  assert "step 6: loss nan" in out and "recovery 1 of 2: learning rate x 0.5, without records toy/" in out
  assert "step 6: loss nan" in out and "recovery 2 of 2: learning rate x 0.25" in out
  meta = json.loads((tmp_path / "checkpoints/12/meta/metadata").read_text())
  assert [recovery["step"] for recovery in meta["recoveries"]] == [6, 6]


def test_after_the_last_attempt_the_run_stops_as_ever(tmp_path):
  with pytest.raises(KairosError, match="after step 6: loss nan .*not finite.*failed-6"):
    run(tmp_path, data=poisoned(6, 7, 8), recovery=RECOVERY)


@pytest.mark.parametrize("every", [1, 5, 7, 100])
def test_the_smaller_learning_rate_survives_an_interruption_bit_for_bit(tmp_path, every):
  run(tmp_path / "undisturbed", data=poisoned(6, 9), recovery=RECOVERY)
  trigger = records_of_batch(8)[0]

  def terminate(index):
    if index == trigger:
      os.kill(os.getpid(), signal.SIGTERM)
    return np.nan if index in {records_of_batch(6)[3], records_of_batch(9)[3]} else 1.0

  with pytest.raises(Interrupted):
    data = toy.make_data(records=1024, scale_of=terminate)
    run(tmp_path / "interrupted", data=data, recovery=RECOVERY, checkpoint_every=every)
  run(tmp_path / "interrupted", data=poisoned(6, 9), recovery=RECOVERY, checkpoint_every=every)
  assert toy.losses(tmp_path / "interrupted") == toy.losses(tmp_path / "undisturbed")
  jax.tree.map(np.testing.assert_array_equal, *(weights(tmp_path / name) for name in ("interrupted", "undisturbed")))


def test_sigterm_saves_and_the_handler_is_given_back(tmp_path):
  handler = signal.getsignal(signal.SIGTERM)
  trigger = records_of_batch(6)[0]

  def terminate(index):
    if index == trigger:
      os.kill(os.getpid(), signal.SIGTERM)
    return 1.0

  with pytest.raises(Interrupted) as interrupted:
    run(tmp_path, data=toy.make_data(records=1024, scale_of=terminate), checkpoint_every=100)
  assert interrupted.value.code == 128 + signal.SIGTERM
  assert signal.getsignal(signal.SIGTERM) is handler
  (saved,) = (tmp_path / "checkpoints").iterdir()
  assert 1 <= int(saved.name) <= 7  # records are read ahead


def test_data_that_ends_early(tmp_path):
  with pytest.raises(KairosError, match="toy: the data ended after 2 of 12 steps"):
    run(tmp_path, data=toy.make_data(records=16, epochs=1))


def test_batch_that_does_not_divide(tmp_path):
  with pytest.raises(KairosError, match="config key train.batch_size is 8; allowed: a multiple of 3, "):
    run(tmp_path, grad_accum_steps=3)
