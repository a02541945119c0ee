"""The distilled student's steps against a loop in numpy."""

import jax.numpy as jnp
import numpy as np

from kairos_jax.flow.sampler import few_steps, sample_video
from kairos_jax.flow.schedule import dmd_schedule
from kairos_jax.interfaces import Context
from kairos_jax.model import WorldActionModel
from tests.model import tiny

CONFIG = tiny.video_only(layers=("SWA", "DSWA"))


def test_steps_put_back_what_is_observed_but_for_the_last():
  rng = np.random.default_rng(0)
  model, params = WorldActionModel(CONFIG), tiny.params(CONFIG)
  noise = rng.standard_normal((2, 5, 4, 2, CONFIG.video.channels)).astype(np.float32)
  observed = rng.standard_normal((2, 1, *noise.shape[2:])).astype(np.float32)
  context = Context(jnp.asarray(rng.standard_normal((2, 3, CONFIG.video.text_dim)), jnp.float32))
  schedule, heard = dmd_schedule((1000, 700, 90), 3.0), []
  got, _ = sample_video(
    model, params, noise, schedule, context, observed=observed, integrate=few_steps, on_step=heard.append
  )

  x = noise.copy()
  for sigma, after in zip(schedule.sigmas, [*schedule.sigmas[1:], 0.0], strict=True):
    x[:, :1] = observed
    v = model.apply({"params": params}, x, jnp.full(2, sigma * 1000), context, num_observed=1, method="denoise_video")
    x = (1 - after) * (x - sigma * np.asarray(v)) + after * noise
  np.testing.assert_allclose(got, x, atol=2e-5)
  assert np.abs(np.asarray(got)[:, :1] - observed).max() > 1e-3
  np.testing.assert_array_equal(sorted(map(float, heard)), schedule.sigmas[::-1])
