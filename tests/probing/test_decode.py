"""Linear probes and comparisons of layers, on features whose answer is known."""

import dataclasses

import numpy as np
import pytest

from kairos_jax import probing
from kairos_jax.errors import KairosError
from kairos_jax.probing.record import Recording

sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed: it is in the extra `notebook`")


def test_what_is_there_is_read_and_what_is_not_is_chance():
  rng = np.random.default_rng(0)
  labels = rng.integers(2, size=120)
  noise = rng.standard_normal((120, 4, 6))
  told = noise.copy()
  told[:, 2, 3] += 6 * labels
  found = probing.decode({0: noise, 2: told}, labels)
  assert found.accuracy[2].value > 0.97 and found.accuracy[0].low < 0.5 < found.accuracy[0].high + 0.1
  assert found.control[2].low < 0.5 < found.control[2].high + 0.1
  assert [text.get_text() for text in found.plot().get_legend().get_texts()] == ["probe", "shuffled labels"]


def test_twins_are_held_out_together():
  """Scenes that are there with both labels and say nothing of it: told apart from their twins, all would be wrong."""
  rng = np.random.default_rng(3)
  scenes = np.repeat(rng.standard_normal((40, 60)), 2, axis=0)
  labels, twins = np.tile([0, 1], 40), np.repeat(np.arange(40), 2)
  assert probing.decode({0: scenes}, labels).accuracy[0].value < 0.2
  assert probing.decode({0: scenes}, labels, groups=twins).accuracy[0].value == 0.5


def test_wide_states_are_projected():
  rng = np.random.default_rng(1)
  labels = rng.integers(3, size=90)
  wide = rng.standard_normal((90, 3000)) + 0.5 * np.eye(3)[labels].repeat(1000, axis=1)
  assert probing.decode({0: wide}, labels).accuracy[0].value > 0.95


def test_too_few_episodes_are_refused():
  with pytest.raises(KairosError, match=r"decode: {0: 3, 1: 7} episodes a class"):
    probing.decode({0: np.zeros((10, 2))}, np.array([0] * 3 + [1] * 7))


def recording(out):
  fields = {field.name: None for field in dataclasses.fields(Recording)}
  return Recording(**{**fields, "kinds": ("SWA",) * len(out), "latents_per_second": 2.5, "out": out})


@pytest.mark.mistakes
def test_layers_that_say_the_same_are_alike_however_they_are_turned():
  rng = np.random.default_rng(2)
  one, other = rng.standard_normal((2, 5, 3, 40, 8))
  turn = np.linalg.qr(rng.standard_normal((8, 8)))[0]
  found = probing.compare(recording({0: one, 1: other}), recording({0: 3 * other @ turn + 1, 1: one})).cka
  np.testing.assert_allclose([found[0, 1], found[1, 0]], 1, atol=1e-9)
  assert found[0, 0] < 0.1
  with pytest.raises(KairosError, match="cannot be compared"):
    probing.compare(recording({0: one}), recording({0: one[:2]}))
