"""TeaCache: never skipping changes nothing, always skipping repeats the first step's blocks, the sum is bounded."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from kairos_jax.errors import KairosError
from kairos_jax.flow.sampler import sample_video
from kairos_jax.flow.schedule import flow_schedule
from kairos_jax.flow.tea_cache import TeaCache, sample_video_cached
from kairos_jax.interfaces import Context
from kairos_jax.model import WorldActionModel
from tests.model import tiny

CONFIG = tiny.video_only(layers=("SWA", "GATED"))


@pytest.fixture
def inputs():
  rng = np.random.default_rng(1)
  noise = jnp.asarray(rng.standard_normal((1, 4, 4, 2, CONFIG.video.channels)), jnp.float32)
  positive, negative = (
    Context(jnp.asarray(rng.standard_normal((1, n, CONFIG.video.text_dim)), jnp.float32)) for n in (3, 2)
  )
  return WorldActionModel(CONFIG), tiny.params(CONFIG), noise, flow_schedule(5, 4.0), positive, negative


def run(inputs, cache, **options):
  *given, negative = inputs
  return sample_video_cached(*given, cache, guidance=3.0, negative=negative, observed=given[2][:, :1] + 1, **options)


def test_a_threshold_of_zero_is_the_plain_sampler(inputs):
  *given, negative = inputs
  want, _ = sample_video(*given, guidance=3.0, negative=negative, observed=given[2][:, :1] + 1)
  got, trace = run(inputs, TeaCache(0.0))
  assert not trace.skipped.any()
  np.testing.assert_allclose(got, want, atol=1e-4)


def test_a_large_threshold_runs_the_first_and_the_last_step_alone(inputs):
  heard = []
  got, trace = run(inputs, TeaCache(1e9), on_step=heard.append)
  assert trace.skipped.tolist() == [False, True, True, True, False]
  assert sorted(map(int, heard)) == [0, 1, 2, 3, 4]
  assert np.isfinite(got).all()


def test_the_sum_is_bounded():
  cache, free = TeaCache(0.1), TeaCache(0.1, floor=-math.inf)
  before, now = jnp.ones(4), jnp.full(4, 1.2)  # where the polynomial is far below zero
  for rule, low in ((cache, True), (free, False)):
    _, total = rule.check(jnp.float32(0), before, now, jnp.asarray(False))
    assert (total == 0) == low and (total < -1) != low


@pytest.mark.parametrize(
  ("options", "says"),
  [
    (dict(threshold=0.1, model="Wan3"), "tea_cache.model is 'Wan3'; allowed: Wan2.1"),
    (dict(threshold=-1.0), "tea_cache.threshold is -1.0"),
    (dict(threshold=math.nan), "tea_cache.threshold is nan"),
  ],
)
def test_mistakes_are_told(options, says):
  with pytest.raises(KairosError, match=says):
    TeaCache(**options)


def test_guidance_needs_a_negative_context(inputs):
  *given, _ = inputs
  with pytest.raises(KairosError, match="guidance is 2.0, which needs a negative context"):
    sample_video_cached(*given, TeaCache(0.1), guidance=2.0)
