"""Each rule against a plain implementation of its own, number by number or with other formulas."""

import numpy as np
import pytest

from kairos_jax.errors import KairosError
from kairos_jax.interop.merge_rules import Rule

RNG = np.random.default_rng(0)
SHAPES = [(7, 5), (4, 9), (11,), (3, 2, 4)]
MATRICES = [shape for shape in SHAPES if len(shape) == 2]


def drawn(shape, count=3):
  base = RNG.standard_normal(shape)
  return base, [base + 0.3 * RNG.standard_normal(shape) for _ in range(count)]


@pytest.mark.parametrize("shape", SHAPES)
def test_soup(shape):
  _, models = drawn(shape)
  np.testing.assert_allclose(Rule("soup").merge("x", models, None), np.mean(models, axis=0))
  np.testing.assert_allclose(
    Rule("soup", weights=(1, 3, 4)).merge("x", models, None), np.average(models, axis=0, weights=(1, 3, 4))
  )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weights", [(), (1.0, 2.0, 0.5)])
def test_ties_number_by_number(shape, weights):
  base, models = drawn(shape)
  density, scale = 0.4, 0.7
  shares = weights or (1.0, 1.0, 1.0)
  taus = [(model - base).ravel() for model in models]
  kept = []
  for tau in taus:
    order = sorted(range(tau.size), key=lambda i: -abs(tau[i]))[: round(density * tau.size)]  # noqa: B023
    kept.append({i: tau[i] for i in order})
  want = base.ravel().copy()
  for i in range(want.size):
    total = sum(share * tau.get(i, 0.0) for share, tau in zip(shares, kept, strict=True))
    same = [(share, tau[i]) for share, tau in zip(shares, kept, strict=True) if i in tau and tau[i] * total > 0]
    if same:
      want[i] += scale * sum(share * value for share, value in same) / sum(share for share, _ in same)
  got = Rule("ties", weights=weights, density=density, scale=scale).merge("x", models, base)
  np.testing.assert_allclose(got.ravel(), want, rtol=1e-12)


def test_dare_drops_its_share_and_keeps_the_mean():
  base, models = np.zeros((400, 300)), [np.full((400, 300), 1.0), np.full((400, 300), 10.0)]
  rule = Rule("dare", drop=0.7, seed=3, scale=0.5)
  got = rule.merge("x", models, base)
  # 0.5 x (half of 1 and half of 10) / 0.3, each there or not, independently.
  values, counts = np.unique(got.round(6), return_counts=True)
  np.testing.assert_allclose(values, np.array([0, 0.25, 2.5, 2.75]) / 0.3, rtol=1e-5)
  np.testing.assert_allclose(counts / got.size, [0.49, 0.21, 0.21, 0.09], atol=0.01)
  np.testing.assert_allclose(got.mean(), 0.5 * 5.5, rtol=0.01)
  np.testing.assert_array_equal(got, rule.merge("x", models, base))
  assert not np.array_equal(got, rule.merge("y", models, base))
  assert not np.array_equal(got, Rule("dare", drop=0.7, seed=4, scale=0.5).merge("x", models, base))
  np.testing.assert_allclose(Rule("dare", drop=0.0).merge("x", models, base), np.mean(models, axis=0))


@pytest.mark.parametrize("shape", MATRICES)
def test_cart_keeps_the_largest_directions(shape):
  _, models = drawn(shape)
  rank, scale = 0.5, 1.3
  mean, k = np.mean(models, axis=0), round(rank * min(shape))
  want = mean.copy()
  for model in models:
    off = model - mean
    values, vectors = np.linalg.eigh(off.T @ off)  # another way to the same directions
    best = vectors[:, np.argsort(values)[::-1][:k]]
    want += scale * off @ best @ best.T
  np.testing.assert_allclose(Rule("cart", rank=rank, scale=scale).merge("x", models, None), want, rtol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_cart_of_full_rank_is_the_average(shape, scale):
  _, models = drawn(shape)
  got = Rule("cart", rank=1.0, scale=scale).merge("x", models, None)
  np.testing.assert_allclose(got, np.mean(models, axis=0), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("shape", "rank"), [((7, 5), 5), ((4, 9), 4), ((12, 10), 3)])
def test_wudi_disturbs_least(shape, rank):
  """The least of sum |tau_i^T (tau - tau_i)|^2 / |tau_i|^2, by least squares; the smallest where there are many."""
  base = RNG.standard_normal(shape)
  taus = [RNG.standard_normal((shape[0], rank)) @ RNG.standard_normal((rank, shape[1])) for _ in range(2)]
  rows = np.concatenate([tau.T / np.linalg.norm(tau) for tau in taus])
  right = np.concatenate([tau.T @ tau / np.linalg.norm(tau) for tau in taus])
  want, *_ = np.linalg.lstsq(rows, right, rcond=1e-12)
  got = Rule("wudi", scale=0.6).merge("x", [base + tau for tau in taus], base)
  np.testing.assert_allclose(got, base + 0.6 * want, rtol=0, atol=1e-8)


def test_wudi_of_one_model_twice_is_that_model():
  base, (model, *_) = drawn((9, 6))
  np.testing.assert_allclose(Rule("wudi").merge("x", [model, model], base), model, atol=1e-10)
  vector, others = drawn((5,))
  np.testing.assert_allclose(Rule("wudi").merge("x", others, vector), np.mean(others, axis=0))


@pytest.mark.mistakes
@pytest.mark.parametrize(
  ("changes", "says"),
  [
    (dict(method="slerp"), "method is 'slerp'; allowed: soup, ties, dare, cart, wudi"),
    (dict(method="ties", density=0.0), "density is 0.0; allowed: numbers from 0 to 1, above 0"),
    (dict(method="dare", drop=1.0), "drop is 1.0; allowed: numbers from 0 to 1, below 1"),
    (dict(method="cart", rank=1.5), "rank is 1.5"),
    (dict(method="ties", scale=float("nan")), "scale is nan"),
    (dict(method="soup", weights=(0.0, 0.0)), "weights are"),
  ],
)
def test_numbers_out_of_range(changes, says):
  with pytest.raises(KairosError, match=says):
    Rule(**changes)
