import jax
import numpy as np
import pytest

from kairos_jax.evaluation import lora_step
from kairos_jax.model.world_action import init_params
from tests import tiny


@pytest.mark.slow
def test_a_step_of_a_tiny_model():
  towers = tiny.model_config(layers=("SWA", "GATED"))
  step = lora_step.measure(towers, rank=2, horizon=3)
  shapes = jax.eval_shape(lambda: init_params(towers, jax.random.key(0)))
  assert step.parameters == sum(x.size for x in jax.tree.leaves(shapes))
  assert 0 < step.adapters < step.parameters
  assert np.isfinite([step.loss_video, step.loss_action]).all() and step.loss_video > 0.1 and step.loss_action > 0.1
  assert step.seconds > 0 and step.peak_bytes > 2**20
