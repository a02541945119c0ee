import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from kairos_jax.errors import KairosError
from kairos_jax.training.optimizer import decay_mask, make_optimizer, make_schedule
from tests.training import toy


def test_decay_mask_goes_by_name_not_by_rank():
  leaf = jnp.zeros((4, 3, 3))
  params = {"group": {"q": {"kernel": leaf, "bias": leaf}, "norm": {"scale": leaf}}, "embed": {"embedding": leaf}}
  mask = {"group": {"q": {"kernel": True, "bias": False}, "norm": {"scale": False}}, "embed": {"embedding": True}}
  assert decay_mask(params) == mask


def test_only_matrices_decay():
  config = dataclasses.replace(
    toy.make_config(10)["optimizer_config"], weight_decay=0.5, warmup_steps=0, schedule="constant", peak_lr=0.1
  )
  params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2, 2))}
  optimizer = make_optimizer(config, steps=10)
  zeros = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros((2, 2))}
  updates, _ = optimizer.update(zeros, optimizer.init(params), params)
  np.testing.assert_allclose(updates["kernel"], -0.05 * np.ones((2, 2)), rtol=1e-6)
  np.testing.assert_array_equal(updates["bias"], np.zeros((2, 2)))


def test_schedules():
  config = toy.make_config(25)["optimizer_config"]  # 5 steps of warm-up
  cosine = make_schedule(config, 25)
  np.testing.assert_allclose([cosine(n) for n in (0, 1, 5, 15, 25)], [0, 2e-3, 1e-2, 5.5e-3, 1e-3], rtol=1e-5)
  config = dataclasses.replace(config, schedule="constant")
  np.testing.assert_allclose([make_schedule(config, 25)(n) for n in (1, 5, 24)], [2e-3, 1e-2, 1e-2], rtol=1e-5)


def test_a_warm_up_that_fills_the_run_is_one_line():
  config = dataclasses.replace(toy.make_config(25)["optimizer_config"], warmup_steps=25)
  with pytest.raises(KairosError, match="optimizer.warmup_steps is .*allowed"):
    make_schedule(config, 25)
