"""The run-time checker is on: a wrong shape in a signature is an error of the test that makes it."""

import jaxtyping
import numpy as np
import pytest

from data_pipelines.sketch import Sketch
from kairos_jax import seeds


def test_a_wrong_type_is_refused():
  with pytest.raises(jaxtyping.TypeCheckError, match="derive"):
    seeds.derive("seven", "noise")


def test_a_wrong_shape_is_refused():
  with pytest.raises(jaxtyping.TypeCheckError):
    Sketch(3).add(np.zeros(3))
