"""The report on a quantized model."""

import dataclasses

import numpy as np
import pytest

from kairos_jax.cli import main as cli
from kairos_jax.evaluation import low_bit
from kairos_jax.interop import saved_model
from tests import tiny


@pytest.fixture(scope="module")
def report(tiny_saved):
  return low_bit.compare(tiny_saved, low_bit.quantized(tiny_saved, "int8"), tiny.frames(5), "push it")


@pytest.mark.slow
def test_int8_is_near_and_smaller(report):
  assert report.ratio < 2 and report.bytes < report.bfloat16_bytes * 2
  assert 0 < max(report.weights.values()) < 0.02
  assert 0 < max(report.outputs.values()) < 0.05
  assert 0 < report.actions < 0.1 and report.psnr > 20
  assert set(report.outputs) == {"0 SWA", "1 DSWA", "2 GATED"}


@pytest.mark.slow
def test_errors_are_those_of_the_layers_named(tiny_saved, report):
  narrow = low_bit.quantized(tiny_saved, "int8").params["video"]["groups"]["layer_1"]["ffn"]["up"]["kernel"]
  whole = np.asarray(tiny_saved.params["video"]["groups"]["layer_1"]["ffn"]["up"]["kernel"])
  off = np.linalg.norm(np.asarray(low_bit.low_bit.dequantize(narrow)) - whole) / np.linalg.norm(whole)
  np.testing.assert_allclose(report.weights["video layer 1 ffn/up"], off, rtol=1e-5)


def test_mistakes_are_one_line(tiny_saved, tmp_path, capsys):
  saved_model.save(tmp_path / "a", low_bit.quantized(tiny_saved, "int4"))
  assert cli.main(["quantize", f"--model={tmp_path / 'a'}"]) == 2
  assert cli.main(["quantize", f"--model={tmp_path / 'a'}", f"--out={tmp_path / 'b'}"]) == 2
  robot = dict(other=tiny_saved.embodiments["slide_arm"])
  saved_model.save(tmp_path / "c", dataclasses.replace(tiny_saved, embodiments=robot))
  assert cli.main(["quantize", f"--model={tmp_path / 'c'}", f"--out={tmp_path / 'b'}"]) == 2
  lines = capsys.readouterr().err.splitlines()
  assert [line.split(":")[1].strip()[:24] for line in lines] == [
    "quantize needs --model=F",
    f"{tmp_path / 'a'}"[:24],
    "this model is of no simu",
  ]
