"""The run-time checker is on: a wrong shape in a signature is an error of the test that makes it."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from data_pipelines.sketch import Sketch
from kairos_jax import media, seeds
from kairos_jax.flow.schedule import shifted
from kairos_jax.model import rotation
from kairos_jax.training.step import ema_decay_at
from pallas_kernels.gated_delta import gated_delta
from pallas_kernels.window_attention import MaskRule
from tests import typecheck


def test_a_wrong_type_is_refused():
  with pytest.raises(jaxtyping.TypeCheckError, match="derive"):
    seeds.derive("seven", "noise")


@pytest.mark.parametrize(
  "call",
  [
    lambda: Sketch(3).add(np.zeros(3)),
    lambda: shifted(jnp.zeros(3), jnp.ones(2)),
    lambda: rotation.apply_rope(jnp.zeros((1, 5, 2, 8)), (jnp.zeros((5, 3)), jnp.zeros((5, 3)))),
    lambda: ema_decay_at(jnp.zeros(2, int), 0.9),
    lambda: media.mosaic([np.zeros((4, 6, 3), np.uint8)], 1),
    lambda: MaskRule().near(np.zeros((3, 1), int), np.zeros((4, 2), int)),
    lambda: gated_delta(*[np.zeros((1, 3, 2, 4), np.float32)] * 5),
  ],
  ids=["data_pipelines", "flow", "model", "training", "media", "pallas_kernels", "gated_delta"],
)
def test_a_wrong_shape_is_refused(call):
  with pytest.raises(jaxtyping.TypeCheckError):
    call()


def test_a_test_of_mistakes_runs_unchecked():
  with typecheck.unchecked(), pytest.raises(TypeError):
    seeds.derive(None, "noise")
  with pytest.raises(jaxtyping.TypeCheckError):
    seeds.derive(None, "noise")


def test_numpy_stands_for_jax_and_for_numbers():
  assert seeds.derive(np.int64(3), "noise") == seeds.derive(3, "noise")
  np.testing.assert_allclose(shifted(np.full(2, 0.5), np.float32(3)), 0.75)
