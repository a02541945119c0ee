"""Numbers of 4 bits that are rounded for real clips keep what the matrices make of other clips better."""

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from data_pipelines.held_out import hold_out
from data_pipelines.source import ArrayRecordSource
from kairos_jax.cli import main as cli
from kairos_jax.evaluation import calibration, low_bit
from kairos_jax.model.low_bit import dequantize, is_large, is_quantized


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  folder = tmp_path_factory.mktemp("clips")
  assert cli.main(["data", "build", f"--out={folder}", "--counts=physics:1,hand:1,robot:12"]) == 0
  return ArrayRecordSource(folder / "robot")


@pytest.mark.slow
def test_what_matrices_make_of_held_out_clips_is_nearer(tiny_saved, clips):
  training, held = hold_out(clips, 4)
  moments = calibration.input_moments(tiny_saved, training, clips=8)
  unseen = calibration.input_moments(tiny_saved, held, clips=4, seed=1)
  whole = flatten_dict(tiny_saved.params)
  assert set(moments) == {path for path in whole if is_large(path)}
  errors = []
  for given in (None, moments):
    narrow = flatten_dict(low_bit.quantized(tiny_saved, "int4", moments=given).params)
    assert all(is_quantized(narrow[path]) for path in moments)
    errors.append(
      [_off(np.asarray(whole[path]), np.asarray(dequantize(narrow[path])), unseen[path]) for path in moments]
    )
  plain, calibrated = np.array(errors)
  print(f"outputs off by {plain.mean():.4f} of their length, calibrated {calibrated.mean():.4f}")
  assert calibrated.mean() < 0.8 * plain.mean() and (calibrated < plain).mean() > 0.9


def _off(matrix, narrow, moments):
  """Root mean square of what outputs are off by, over that of the outputs."""
  blocks = lambda x: x.reshape(*moments.shape[:3], -1)  # noqa: E731
  size = lambda x: np.einsum("gnjo,gnjk,gnko->", x, moments, x)  # noqa: E731
  return np.sqrt(size(blocks(narrow - matrix)) / size(blocks(matrix)))
