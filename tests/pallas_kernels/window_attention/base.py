"""What every implementation of window attention must do; each inherits this class and names itself."""

import functools
from types import SimpleNamespace

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.window_attention import Rule, Span, window_attention
from tests.model import oracle
from tests.pallas_kernels.cost import cost

BATCH, TOKENS, HEADS, DIM = 2, 2, 2, 4


def draw(frames, past=0, seed=0):
  """q of `frames` frames, k and v of `past` frames more, in float64."""
  rng = np.random.default_rng(seed)
  return [rng.standard_normal((BATCH, n, TOKENS, HEADS, DIM)) for n in (frames, past + frames, past + frames)]


def single(inputs):
  return [jnp.asarray(x, jnp.float32) for x in inputs]


def visible(rule, query, key, history, start, stop):
  """The definition of the frame-level rule, for one pair of frames of one clip."""
  near = rule.radius is None or ((key - query) % rule.dilation == 0 and abs(key - query) < rule.radius * rule.dilation)
  if not rule.history_sees_future and query < history:
    near = near and key < history
  if rule.all_see_history and key < history:
    near = True
  if rule.causal_history and query < history:
    near = near and key <= query
  return near and start <= key < stop


def dense(q, k, v, rule, history, start, stop):
  """In float64 with a dense mask, clip by clip: the output, and which query frames see anything at all."""
  frames, total = q.shape[1], k.shape[1]
  out, sees = np.zeros_like(q), np.zeros(q.shape[:2], bool)
  for clip in range(BATCH):
    flat = [x[clip].reshape(-1, HEADS, DIM) for x in (q, k, v)]
    if rule.unit == "token":
      kind = "FA" if rule.radius is None else "DSWA" if rule.dilation > 1 else "SWA"
      read = oracle.token_level(SimpleNamespace(window=rule.radius or 0, dilation=rule.dilation), kind, *flat, TOKENS)
      sees[clip] = True
    else:
      span = history[clip], start[clip], stop[clip]
      mask = [[visible(rule, i, j, *span) for j in range(total)] for i in range(total - frames, total)]
      sees[clip] = np.any(mask, axis=1)
      mask = np.where(sees[clip][:, None], mask, True)
      read = oracle.attend(*flat, np.kron(mask, np.ones((TOKENS, TOKENS), bool)))
    out[clip] = read.reshape(q[clip].shape)
  return out, sees


@functools.cache
def compiled(implementation):
  return jax.jit(functools.partial(window_attention, implementation=implementation), static_argnames="rule")


@st.composite
def layouts(draw):
  """A rule, and clips laid out in ways that a model and its memory make."""
  radius = draw(st.sampled_from([None, 1, 2, 3]))
  rule = Rule(
    radius,
    1 if radius is None else draw(st.sampled_from([1, 2, 3])),
    history_sees_future=draw(st.booleans()),
    causal_history=draw(st.booleans()),
    all_see_history=draw(st.booleans()),
  )
  frames, past = draw(st.sampled_from([(1, 0), (1, 4), (5, 0), (6, 3), (9, 0)]))
  clips = lambda low, high: np.array(draw(st.lists(st.integers(low, high), min_size=BATCH, max_size=BATCH)))  # noqa: E731
  return rule, frames, past, clips(0, past + frames), clips(0, past), clips(past + 1, past + frames)


class WindowAttentionTest:
  """`implementation` is a name that `api.window_attention` knows."""

  implementation: str

  @property
  def run(self):
    return compiled(self.implementation)

  @hypothesis.settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.differing_executors],  # one test, inherited by each implementation
  )
  @hypothesis.given(layout=layouts())
  def test_frame_level_rule(self, layout):
    rule, frames, past, history, start, stop = layout
    inputs = draw(frames, past)
    span = Span(*(jnp.asarray(x) for x in (history, start, stop)), history_bound=past + frames)
    got = self.run(*single(inputs), rule=rule, span=span)
    want, sees = dense(*inputs, rule, history, start, stop)
    np.testing.assert_allclose(np.asarray(got)[sees], want[sees], atol=1e-5)

  @pytest.mark.parametrize("frames", [1, 3, 7, 8])
  @pytest.mark.parametrize(("radius", "dilation"), [(1, 1), (2, 4), (None, 1)])
  def test_token_level_rule(self, radius, dilation, frames):
    rule, inputs = Rule(radius, dilation, unit="token"), draw(frames)
    want, _ = dense(*inputs, rule, *[None] * 3)
    np.testing.assert_allclose(self.run(*single(inputs), rule=rule), want, atol=1e-5)

  @pytest.mark.parametrize(
    ("rule", "frames", "past", "history"),
    [
      (Rule(2), 7, 0, 2),
      (Rule(2, 2, all_see_history=True), 6, 3, 4),
      (Rule(1, 2, unit="token"), 5, 0, 0),
    ],
    ids=["many blocks", "dilated, after a memory", "token level"],
  )
  def test_gradients(self, rule, frames, past, history):
    inputs = draw(frames, past)
    weight = np.random.default_rng(9).standard_normal(inputs[0].shape)

    def gradients(implementation, inputs):
      run = functools.partial(window_attention, implementation=implementation)
      loss = lambda q, k, v: jnp.sum(run(q, k, v, rule, Span(history)) * weight)  # noqa: E731
      return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*inputs)

    with jax.enable_x64(True):
      want = [np.asarray(x) for x in gradients("reference", [jnp.asarray(x) for x in inputs])]
      assert want[0].dtype == np.float64
    for name, ours, theirs in zip("qkv", gradients(self.implementation, single(inputs)), want, strict=True):
      error = np.abs(ours - theirs).max() / np.abs(theirs).max()
      assert error < 1e-4, f"{name}: {error:.1e}"

  @pytest.mark.parametrize(("rule", "reach"), [(Rule(2), 1), (Rule(3, 2), 4)], ids=["plain", "dilated"])
  def test_far_frames_have_no_effect(self, rule, reach):
    q, k, v = single(draw(11))
    want = self.run(q, k, v, rule=rule)
    got = self.run(q, k.at[:, 0].add(1.0), v.at[:, 0].add(1.0), rule=rule)
    changed = np.abs(got - want).max(axis=(0, 2, 3, 4)) > 0
    np.testing.assert_array_equal(changed, [n <= reach and n % rule.dilation == 0 for n in range(11)])

  def test_padding_has_no_effect(self):
    """Frames after `stop` and before `start` may hold anything."""
    q, k, v = single(draw(6, past=3))
    span = Span(jnp.array([3, 4]), jnp.array([1, 2]), jnp.array([8, 9]))
    rule = Rule(3, all_see_history=True)
    want = self.run(q, k, v, rule=rule, span=span)
    junk = (np.arange(9) < np.array([[1], [2]])) | (np.arange(9) >= np.array([[8], [9]]))
    k, v = (jnp.where(junk[..., None, None, None], 1e4, x) for x in (k, v))
    got = self.run(q, k, v, rule=rule, span=span)
    real = ~junk[:, 3:]
    np.testing.assert_array_equal(np.asarray(got)[real], np.asarray(want)[real])


def assert_linear(implementation, rule, history=0):
  """Twice the frames cost twice the products, and no array grows faster."""
  fn = functools.partial(window_attention, rule=rule, span=Span(history), implementation=implementation)
  once, twice = (cost(fn, *single(draw(frames))) for frames in (48, 96))
  assert once.products > 0
  assert twice.products <= 2.1 * once.products and twice.largest <= 2.1 * once.largest, (once, twice)
