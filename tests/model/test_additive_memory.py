"""What the ablated delta nets compute: no decay, or no correction."""

import jax
import jax.numpy as jnp
import numpy as np

from kairos_jax.model.additive_memory import additive_memory
from kairos_jax.model.gated_delta_net import GatedDeltaNet


def draws(tokens=7, seed=0):
  rng = np.random.default_rng(seed)
  q, k, v = (rng.standard_normal((2, tokens, 3, n)).astype(np.float32) for n in (4, 4, 5))
  log_decay, beta = -rng.uniform(0, 1, (2, tokens, 3)).astype(np.float32), rng.uniform(0, 1, (2, tokens, 3))
  return q, k, v, log_decay, beta.astype(np.float32)


def test_it_is_the_sum_of_what_was_written_decayed():
  q, k, v, log_decay, beta = draws()
  read, state = additive_memory(*map(jnp.asarray, (q, k, v, log_decay, beta)))
  since = np.cumsum(log_decay, axis=1)
  for t in range(7):
    weight = np.exp(since[:, t : t + 1] - since[:, : t + 1]) * beta[:, : t + 1]
    held = np.einsum("bshk,bshv,bsh->bhkv", k[:, : t + 1], v[:, : t + 1], weight)
    np.testing.assert_allclose(read[:, t], np.einsum("bhkv,bhk->bhv", held, q[:, t]), rtol=2e-4, atol=1e-5)
  np.testing.assert_allclose(state, held, rtol=2e-4, atol=1e-5)


def test_a_state_goes_on_where_it_was():
  inputs = [jnp.asarray(x) for x in draws()]
  whole, last = additive_memory(*inputs)
  first, state = additive_memory(*(x[:, :3] for x in inputs))
  rest, end = additive_memory(*(x[:, 3:] for x in inputs), state)
  np.testing.assert_allclose(np.concatenate([first, rest], axis=1), whole, atol=1e-6)
  np.testing.assert_allclose(end, last, atol=1e-6)


def test_without_decay_a_state_keeps_what_is_not_corrected():
  x = jax.random.normal(jax.random.key(0), (1, 6, 8))
  net = lambda **options: GatedDeltaNet(8, 2, 4, 4, 1e-6, jnp.float32, **options)  # noqa: E731
  params = net().init(jax.random.key(1), x)
  kept = {}
  for name, options in (("paper", {}), ("no_decay", dict(decay=False)), ("no_correction", dict(correction=False))):
    (read, state), seen = net(**options).apply(params, x, mutable=["intermediates"])
    kept[name] = read, state.matrix, seen["intermediates"]["log_decay"][0]
  assert not kept["no_decay"][2].any() and (kept["paper"][2] < 0).all()
  for name in ("no_decay", "no_correction"):
    assert np.abs(kept[name][1] - kept["paper"][1]).max() > 1e-4
  np.testing.assert_array_equal(kept["no_correction"][2], kept["paper"][2])
