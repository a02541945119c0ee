import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kairos_jax.training.state import create
from kairos_jax.training.step import ema_decay_at, make_train_step
from tests.training import toy

INF = np.float32("inf")


def quadratic(params, batch, key):
  del key
  loss = jnp.mean(jnp.square(batch["x"] @ params["kernel"] - 1.0))
  return loss, {"first": batch["x"][0, 0]}


def start(optimizer, seed=0):
  params = {"kernel": jax.random.normal(jax.random.key(2), (8, 4))}
  return create(params, optimizer, jax.random.key(seed))


def batch_of(rows, seed=0):
  return {"x": np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)}


def test_accumulation_equals_one_big_batch():
  optimizer = optax.sgd(0.1)
  batch = batch_of(12)
  whole, metrics = make_train_step(quadratic, optimizer, 0.9, 1)(start(optimizer), {}, batch, 0, INF)
  split, metrics_of_split = make_train_step(quadratic, optimizer, 0.9, 4)(start(optimizer), {}, batch, 0, INF)
  np.testing.assert_allclose(split.params["kernel"], whole.params["kernel"], rtol=1e-5, atol=1e-7)
  for name in ("loss", "grad_norm"):
    np.testing.assert_allclose(metrics_of_split[name], metrics[name], rtol=1e-5)
  # Micro-batch i holds rows i, i + 4, ...: its first row is row i.
  np.testing.assert_allclose(metrics_of_split["first"], batch["x"][:4, 0].mean(), rtol=1e-5)


def test_ema_follows_with_warm_up():
  np.testing.assert_allclose([ema_decay_at(n, 0.9) for n in (0, 8, 10_000)], [0.1, 0.5, 0.9], rtol=1e-6)
  optimizer = optax.sgd(0.1)
  state, step = start(optimizer), make_train_step(quadratic, optimizer, 0.9, 1)
  ema = np.asarray(state.params["kernel"])
  for number in range(3):
    state, _ = step(state, {}, batch_of(4, number), number, INF)
    decay = (1 + number) / (10 + number)
    ema = decay * ema + (1 - decay) * np.asarray(state.params["kernel"])
  np.testing.assert_allclose(state.ema["kernel"], ema, rtol=1e-5)


@pytest.mark.parametrize(
  ("loss_fn", "limit", "finite"),
  [
    (lambda p, b, k: (quadratic(p, b, k)[0] * jnp.nan, {}), INF, False),
    (lambda p, b, k: (quadratic(p, b, k)[0] + jnp.sqrt(jnp.sum(p["kernel"] * 0.0)), {}), INF, False),  # gradient only
    (quadratic, np.float32(1e-3), True),
  ],
  ids=["nan loss", "nan gradient", "exploding loss"],
)
def test_bad_update_and_all_later_ones_are_refused(loss_fn, limit, finite):
  optimizer = optax.adam(0.1)
  bad, good = (make_train_step(fn, optimizer, 0.9, 1) for fn in (loss_fn, quadratic))
  before = jax.tree.map(np.array, start(optimizer))
  state, metrics = bad(start(optimizer), {}, batch_of(4), 0, limit)
  assert bool(metrics["finite"]) is finite
  state, _ = good(state, {}, batch_of(4), 1, INF)  # what a host sends that did not read the metrics yet
  jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, state), before)
  state, _ = good(state, {}, batch_of(4), 0, INF)
  assert state.step == 1 and not np.array_equal(state.params["kernel"], before.params["kernel"])


def test_key_depends_on_step_and_seed():
  def draw(params, batch, key):
    del batch
    return jnp.sum(params["kernel"]) * 0.0, {"draw": jax.random.uniform(key)}

  optimizer = optax.sgd(0.0)
  step = make_train_step(draw, optimizer, 0.9, 2)
  draws = []
  for seed in (0, 0, 1):
    state = start(optimizer, seed)
    for number in range(2):
      state, metrics = step(state, {}, batch_of(2), number, INF)
      draws.append(float(metrics["draw"]))
  assert draws[:2] == draws[2:4] and len(set(draws)) == 4


def test_compiled_once_and_donated():
  optimizer = optax.sgd(0.1)
  params = {"kernel": jnp.ones((8, 4))}
  first = state = create(params, optimizer, jax.random.key(0))
  step = make_train_step(quadratic, optimizer, 0.9, 1)
  for number in range(3):
    state, _ = step(state, {}, batch_of(4), number, INF)
  assert step._cache_size() == 1
  assert first.params["kernel"].is_deleted() and not params["kernel"].is_deleted()


def test_toy_learns():
  optimizer = optax.adam(0.01)
  state, data = create(toy.make_params(), optimizer, jax.random.key(0)), toy.make_data()
  step = make_train_step(toy.loss_fn, optimizer, 0.9, 1)
  losses = []
  for number in range(60):
    batch = next(data)
    state, metrics = step(state, {}, {"x": batch["x"], "y": batch["y"]}, number, INF)
    losses.append(float(metrics["loss"]))
  assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
