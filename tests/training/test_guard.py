import json
import math

import jax
import numpy as np
import optax
import pytest

from kairos_jax.errors import KairosError
from kairos_jax.training import guard
from kairos_jax.training.checkpoint import load_params
from kairos_jax.training.state import create


def step(loss, finite=True):
  return {"loss": loss, "grad_norm": 1.0, "finite": finite}


def watch(losses, factor=20.0):
  return guard.LossGuard(factor, losses)


def test_limit_is_the_median_of_the_last_hundred_times_the_factor():
  assert watch([1.0] * 49).limit() == math.inf
  assert watch([1.0] * 49 + [5.0]).limit() == 20.0
  assert watch([100.0] * 60 + [2.0] * 100).limit() == 40.0
  assert watch([-1.0] * 60).limit() == math.inf
  assert watch([]).limit().dtype == np.float32  # a Python float would compile a second step


def test_judges_and_remembers():
  guarded = watch([1.0] * 50)
  assert guarded.judge(step(19.0), guarded.limit()) is None
  assert "exceeds 20" in guarded.judge(step(21.0), guarded.limit())
  assert "not finite" in guarded.judge(step(math.nan, finite=False), guarded.limit())
  assert guarded.losses == [1.0] * 50 + [19.0]  # a refused loss does not move the median
  assert guarded.limit() == guard.LossGuard(20.0, guarded.losses).limit()


def test_stop_keeps_the_evidence(tmp_path):
  params = {"kernel": np.ones((2, 2), np.float32)}
  state = create(params, optax.sgd(0.1), jax.random.key(0))
  ids = [f"hand/{i}" for i in range(10)]
  for _ in range(2):  # a restart meets the same failure
    with pytest.raises(KairosError, match=r"after step 0: bad; records hand/0, .*hand/7 and 2 more.*failed-0") as error:
      guard.stop(tmp_path, state, "bad", {"loss": math.nan, "grad_norm": 2.0}, ids)
    assert "\n" not in str(error.value)
  np.testing.assert_array_equal(load_params(tmp_path / "failed-0", "params")["kernel"], params["kernel"])
  report = json.loads((tmp_path / "failure.json").read_text())
  assert report == {"step": 0, "reason": "bad", "metrics": {"loss": "nan", "grad_norm": 2.0}, "ids": ids}
