"""What every implementation of window attention must do; each inherits this class and names its functions."""

import functools
from collections.abc import Callable
from types import SimpleNamespace

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.window_attention import MaskRule, Span, reference
from tests.model import oracle
from tests.pallas_kernels.cost import cost

BATCH, TOKENS, HEADS, DIM = 2, 2, 2, 4
FAST_COMPILE = {"xla_backend_optimization_level": 0}  # these tests spend their time in the compiler


def draw(frames, past=0, tokens=TOKENS, seed=0):
  """q of `frames` frames, k and v of `past` frames more, in float64."""
  rng = np.random.default_rng(seed)
  return [rng.standard_normal((BATCH, n, tokens, HEADS, DIM)) for n in (frames, past + frames, past + frames)]


def draw_actions(actions, frames, seed=0):
  """q, k, v of the actions and k, v of the video, in float64."""
  rng = np.random.default_rng(seed)
  action, video = (BATCH, actions, HEADS, DIM), (BATCH, frames, TOKENS, HEADS, DIM)
  return [rng.standard_normal(shape) for shape in (action, action, action, video, video)]


def single(inputs):
  return [jnp.asarray(x, jnp.float32) for x in inputs]


def assert_relative(got, want, tolerance, name=""):
  error = np.abs(np.asarray(got, np.float64) - want).max() / (np.abs(want).max() + 1e-30)
  assert error < tolerance, f"{name}: {error:.1e}"  # a NaN fails


def visible(rule, query, key, num_observed, start, stop):
  """The definition of the frame-level rule, for one pair of frames of one clip."""
  near = rule.window_size is None or (
    (key - query) % rule.dilation == 0 and abs(key - query) < rule.window_size * rule.dilation
  )
  near = near or key < rule.anchors
  if not rule.history_sees_future and query < num_observed:
    near = near and key < num_observed
  if rule.all_see_history and key < num_observed:
    near = True
  if rule.causal_history and query < num_observed:
    near = near and key <= query
  return near and (start <= key or key < rule.anchors) and key < stop


def dense(q, k, v, rule, num_observed, start, stop):
  """In float64 with a dense mask, clip by clip: the output, and which query frames see anything at all."""
  frames, total, tokens = q.shape[1], k.shape[1], q.shape[2]
  out, sees = np.zeros_like(q), np.zeros(q.shape[:2], bool)
  for clip in range(BATCH):
    flat = [x[clip].reshape(-1, HEADS, DIM) for x in (q, k, v)]
    if rule.unit == "token":
      kind = "FA" if rule.window_size is None else "DSWA" if rule.dilation > 1 else "SWA"
      read = oracle.token_level(
        SimpleNamespace(window_size=rule.window_size or 0, dilation=rule.dilation), kind, *flat, tokens
      )
      sees[clip] = True
    else:
      span = num_observed[clip], start[clip], stop[clip]
      mask = [[visible(rule, i, j, *span) for j in range(total)] for i in range(total - frames, total)]
      sees[clip] = np.any(mask, axis=1)
      mask = np.where(sees[clip][:, None], mask, True)
      read = oracle.attend(*flat, np.kron(mask, np.ones((tokens, tokens), bool)))
    out[clip] = read.reshape(q[clip].shape)
  return out, sees


def gradients(fn, inputs, weight, **kwargs):
  """Of a weighting of what is read, to every input."""
  loss = lambda *inputs: jnp.sum(fn(*inputs, **kwargs) * weight)  # noqa: E731
  return jax.jit(jax.grad(loss, argnums=range(len(inputs))), compiler_options=FAST_COMPILE)(*inputs)


def assert_gradients(got_fn, want_fn, inputs, names, **kwargs):
  """Those of `got_fn` in float32 against those of `want_fn` in float64."""
  weight = np.random.default_rng(9).standard_normal(inputs[0].shape)
  with jax.enable_x64(True):
    want = [np.asarray(x) for x in gradients(want_fn, [jnp.asarray(x) for x in inputs], weight, **kwargs)]
    assert want[0].dtype == np.float64
  got = gradients(got_fn, single(inputs), weight, **kwargs)
  for name, ours, theirs in zip(names, got, want, strict=True):
    assert_relative(ours, theirs, 1e-4, name)


@functools.cache
def compiled(fn):
  """One jitted function for all tests."""
  return jax.jit(fn, static_argnames="rule", compiler_options=FAST_COMPILE)


@st.composite
def layouts(draw):
  """A rule, and clips laid out in ways that a model and its memory make."""
  window_size = draw(st.sampled_from([None, 1, 2, 3]))
  rule = MaskRule(
    window_size,
    1 if window_size is None else draw(st.sampled_from([1, 2, 3])),
    history_sees_future=draw(st.booleans()),
    causal_history=draw(st.booleans()),
    all_see_history=draw(st.booleans()),
    anchors=draw(st.sampled_from([0, 0, 1, 2])),
  )
  frames, past = draw(st.sampled_from([(1, 0), (1, 4), (5, 0), (6, 3), (9, 0)]))
  clips = lambda low, high: np.array(draw(st.lists(st.integers(low, high), min_size=BATCH, max_size=BATCH)))  # noqa: E731
  return rule, frames, past, clips(0, past + frames), clips(0, past), clips(past + 1, past + frames)


class ReadsTest:
  """`attend` and `act` read what `api.window_attention` and `api.action_attention` say, off by `tolerance` at most."""

  attend: Callable
  act: Callable
  tolerance = 1e-5

  @property
  def run(self):
    return compiled(self.attend)

  @hypothesis.settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.differing_executors],  # one test, inherited by each implementation
  )
  @hypothesis.given(layout=layouts())
  def test_frame_level_rule(self, layout):
    rule, frames, past, num_observed, start, stop = layout
    inputs = draw(frames, past)
    span = Span(*(jnp.asarray(x) for x in (num_observed, start, stop)), num_observed_bound=past + frames)
    got = self.run(*single(inputs), rule=rule, span=span)
    want, sees = dense(*inputs, rule, num_observed, start, stop)
    np.testing.assert_allclose(np.asarray(got)[sees], want[sees], atol=self.tolerance)
    assert np.isfinite(got).all()

  @pytest.mark.parametrize("frames", [3, 7, 8])
  @pytest.mark.parametrize(("window_size", "dilation"), [(1, 1), (2, 4), (None, 1)])
  def test_token_level_rule(self, window_size, dilation, frames):
    rule, inputs = MaskRule(window_size, dilation, unit="token"), draw(frames)
    want, _ = dense(*inputs, rule, *[None] * 3)
    np.testing.assert_allclose(self.run(*single(inputs), rule=rule, span=Span()), want, atol=self.tolerance)

  @pytest.mark.parametrize(("frames", "tokens"), [(1, 1), (9, 7), (8, 8), (5, 13), (5, 40), (25, 40)])
  def test_lengths(self, frames, tokens):
    """1, 63, 64, 65, 200 and 1000 tokens."""
    inputs, rule = draw(frames, tokens=tokens), MaskRule(2)
    want, _ = dense(*inputs, rule, [0] * BATCH, [0] * BATCH, [frames] * BATCH)
    assert_relative(self.run(*single(inputs), rule=rule, span=Span()), want, self.tolerance)

  def test_low_precision(self):
    inputs, rule = draw(7), MaskRule(2)
    got = self.run(*(x.astype(jnp.bfloat16) for x in single(inputs)), rule=rule, span=Span(2))
    assert got.dtype == jnp.bfloat16
    want, _ = dense(*inputs, rule, [2] * BATCH, [0] * BATCH, [7] * BATCH)
    assert_relative(got, want, max(2e-2, self.tolerance))

  def test_a_query_that_sees_nothing(self):
    """Frames from `stop` on see nothing nearby; nobody reads them, and they must not spoil what is read."""
    got = self.run(*single(draw(7)), rule=MaskRule(1), span=Span(stop=np.array([4, 5])))
    assert np.isfinite(got).all()

  @pytest.mark.parametrize(("rule", "reach"), [(MaskRule(2), 1), (MaskRule(3, 2), 4)], ids=["plain", "dilated"])
  def test_far_frames_have_no_effect(self, rule, reach):
    q, k, v = single(draw(11))
    want = self.run(q, k, v, rule=rule, span=Span())
    got = self.run(q, k.at[:, 0].add(1.0), v.at[:, 0].add(1.0), rule=rule, span=Span())
    changed = np.abs(got - want).max(axis=(0, 2, 3, 4)) > 0
    np.testing.assert_array_equal(changed, [n <= reach and n % rule.dilation == 0 for n in range(11)])

  def test_padding_has_no_effect(self):
    """Frames after `stop` and before `start` may hold anything."""
    q, k, v = single(draw(6, past=3))
    span = Span(jnp.array([3, 4]), jnp.array([1, 2]), jnp.array([8, 9]))
    rule = MaskRule(3, all_see_history=True)
    want = self.run(q, k, v, rule=rule, span=span)
    junk = (np.arange(9) < np.array([[1], [2]])) | (np.arange(9) >= np.array([[8], [9]]))
    k, v = (jnp.where(junk[..., None, None, None], 1e4, x) for x in (k, v))
    got = self.run(q, k, v, rule=rule, span=span)
    real = ~junk[:, 3:]
    np.testing.assert_array_equal(np.asarray(got)[real], np.asarray(want)[real])

  @pytest.mark.parametrize("actions", [1, 5])
  def test_actions_read_history_and_each_other(self, actions):
    inputs, stop = draw_actions(actions, frames=6), [0, 4]
    got = self.act(*single(inputs), span=Span(stop=jnp.asarray(stop)))
    for clip in range(BATCH):
      q, k, v, video_k, video_v = (x[clip].reshape(-1, HEADS, DIM) for x in inputs)
      seen = np.arange(6 * TOKENS + actions) // TOKENS < stop[clip]
      seen[6 * TOKENS :] = True
      keys, values = np.concatenate([video_k, k]), np.concatenate([video_v, v])
      assert_relative(got[clip], oracle.attend(q, keys, values, seen[None]), self.tolerance)


class WindowAttentionTest(ReadsTest):
  """Likewise, and both are differentiable."""

  @pytest.mark.parametrize(
    ("rule", "frames", "past", "span"),
    [
      (MaskRule(2), 7, 0, Span(2)),
      (MaskRule(2, 2, all_see_history=True), 6, 3, Span(4)),
      (MaskRule(1, 2, unit="token"), 5, 0, Span()),
      (MaskRule(2, 2, causal_history=True), 6, 3, Span(np.array([3, 5]), np.array([1, 0]), np.array([8, 9]))),
      (MaskRule(2, causal_history=True, anchors=1), 6, 2, Span(np.array([8, 8]), np.array([2, 1]), np.array([8, 8]))),
    ],
    ids=["many blocks", "dilated, after a memory", "token level", "clips that differ", "anchors"],
  )
  def test_gradients(self, rule, frames, past, span):
    assert_gradients(self.attend, reference.window_attention, draw(frames, past), "qkv", rule=rule, span=span)

  def test_gradients_where_a_query_sees_nothing(self):
    weight = np.where(np.arange(7)[:, None, None, None] < 4, 1.0, 0.0)
    span = Span(stop=np.array([4, 5]))
    for x in gradients(self.attend, single(draw(7)), weight, rule=MaskRule(1), span=span):
      assert np.isfinite(x).all()

  def test_gradients_of_actions(self):
    span = Span(start=np.array([2]), stop=np.array([5]))
    names = ("q", "k", "v", "video_k", "video_v")
    assert_gradients(self.act, reference.action_attention, draw_actions(5, frames=6), names, span=span)


def assert_linear(fn, rule, num_observed=0):
  """Twice the frames cost twice the products, and no array grows faster."""
  once, twice = (
    cost(functools.partial(fn, rule=rule, span=Span(num_observed)), *single(draw(frames))) for frames in (48, 96)
  )
  assert once.products > 0
  assert twice.products <= 2.1 * once.products and twice.largest <= 2.1 * once.largest, (once, twice)
