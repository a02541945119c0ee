"""What is promised of a batch's time, and with it who is refused."""

import numpy as np

from kairos_jax.serving.dispatcher import Pace


def test_a_promise_is_kept_by_nearly_all_batches():
  rng, pace, kept, now = np.random.default_rng(0), Pace(0.02), [], 0.0
  for seconds in 0.02 * rng.lognormal(0.0, 0.2, 2000):
    kept.append(seconds <= pace.promise(now))
    now += seconds
    pace.learn(now, seconds)
  assert 0.95 < np.mean(kept) < 0.99


def test_one_long_batch_frightens_nobody_off_and_a_slow_device_is_known_at_once_and_forgiven():
  pace = Pace(0.01)
  assert pace.promise(0.0) == 0.01
  pace.learn(5.0, 5.0)
  assert pace.promise(5.0) == 0.01
  pace.learn(5.1, 0.02)
  assert pace.promise(5.1) == 0.02
  pace.learn(5.5, 0.3)
  assert pace.promise(5.5) == 0.3
  assert pace.promise(15.05) == 0.02 and pace.promise(15.2) == 0.01  # nothing ran meanwhile
