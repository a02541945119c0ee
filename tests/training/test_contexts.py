"""Contexts on disk: the same numbers as without, computed once, and never another encoder's."""

import dataclasses

import jax
import numpy as np
import pytest

from data_pipelines.simulate.generate import build
from kairos_jax import assembly
from kairos_jax.errors import KairosError
from kairos_jax.interfaces import ContextEncoder
from kairos_jax.interop import saved_model
from kairos_jax.training import contexts, curriculum, load_params, metrics
from tests.training.test_released_codec import config_of

ENCODER = assembly.make_encoder(dict(kind="words", vocabulary=32, tokens=6, dim=8, text_dim=12))
TEXTS = ["push the ball", "wait", "pull it all"]


@pytest.fixture(scope="module")
def params():
  return ENCODER.init(jax.random.key(0))


def test_a_cached_context_is_the_encoder_s(tmp_path, params):
  cached = contexts.fill(tmp_path, ENCODER, params, TEXTS)
  assert isinstance(cached, ContextEncoder) and cached.text_dim == 12 and cached.init(jax.random.key(1)) == {}
  tokens = cached.tokenize(TEXTS[::-1])
  for got, plain in (
    (tokens, ENCODER.tokenize(TEXTS[::-1])),
    (cached.without_text(tokens), ENCODER.tokenize([""] * 3)),
  ):
    context, want = cached.encode({}, got), ENCODER.encode(params, plain)
    np.testing.assert_allclose(context.tokens, want.tokens, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(context.mask, want.mask)


def test_it_is_computed_once_and_an_interrupted_fill_goes_on(tmp_path, params, monkeypatch):
  contexts.fill(tmp_path, ENCODER, params, TEXTS[:2])
  before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
  contexts.fill(tmp_path, ENCODER, params, TEXTS)
  after = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
  assert len(before) == 3 and len(after) == 4 and before.items() <= after.items()


@pytest.mark.parametrize("what", ["weights", "tokenizer"])
def test_another_encoder_is_refused(tmp_path, params, what):
  contexts.fill(tmp_path, ENCODER, params, TEXTS)
  other = ENCODER
  if what == "weights":
    params = jax.tree.map(lambda x: x, params) | {"places": params["places"].at[5, 7].add(1e-3)}
  else:
    other = dataclasses.replace(ENCODER, tokens=7)
    params = params | {"places": jax.numpy.zeros((7, 8))}
  with pytest.raises(KairosError, match=r"is of another encoder \([0-9a-f]{12} there and [0-9a-f]{12} here\): give"):
    contexts.fill(tmp_path, other, params, TEXTS)


def test_a_text_that_was_not_given_is_told(tmp_path, params):
  cached = contexts.fill(tmp_path, ENCODER, params, TEXTS)
  with pytest.raises(KairosError, match="has no context of 'jump'"):
    cached.tokenize(["jump"])
  with pytest.raises(KairosError, match="contexts of texts alone"):
    cached.tokenize(["wait"], images=[np.zeros((2, 2, 3), np.uint8)])


@pytest.mark.slow
def test_a_run_with_cached_contexts_is_the_run_without(tmp_path):
  build(tmp_path / "data", dict(robot=3), seed=0, size=16)
  saved = {}
  for name in ("plain", "cached"):
    config = config_of(tmp_path, kind="pca", channels=4)
    config.stages.robot.frozen = ("bridge/*",)
    config.context_cache = str(tmp_path / "contexts") if name == "cached" else None
    curriculum.run(config, tmp_path / name)
    saved[name] = saved_model.load(tmp_path / name).params
  assert set(load_params(tmp_path / "cached/robot/checkpoints")) == {"video", "action"}
  one, other = ([x for x in metrics.read(tmp_path / name / "robot/metrics.jsonl")] for name in saved)
  for line, same in zip(one, other, strict=True):
    assert line.keys() == same.keys()
    for key in (key for key in line if "loss" in key or key.startswith("val/v") or key.startswith("val/a")):
      np.testing.assert_allclose(line[key], same[key], rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), saved["plain"], saved["cached"])
  jax.tree.map(np.testing.assert_array_equal, saved["plain"]["bridge"], saved["cached"]["bridge"])


def test_an_encoder_that_trains_has_no_cache(tmp_path):
  config = config_of(tmp_path, kind="pca", channels=4)
  config.context_cache = str(tmp_path / "contexts")
  with pytest.raises(KairosError, match="config key context_cache is .*; allowed: None, or 'bridge/.*' among stages"):
    curriculum.check(config)
