"""8-bit attention: as near as its module says on awkward inputs, and the same in a stream as in the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.dispatch import Unsupported
from pallas_kernels.window_attention import MaskRule, Span, action_attention, low_bit, window_attention, xla
from tests.pallas_kernels.window_attention.base import ReadsTest, draw_actions, single

FRAMES, TOKENS, HEADS, DIM = 6, 16, 2, 32
RULE = MaskRule(3, causal_history=True)


class TestLowBit(ReadsTest):
  attend = staticmethod(low_bit.window_attention)
  act = staticmethod(jax.jit(low_bit.action_attention))
  tolerance = 0.15  # of numbers of about 1; the bound itself is held below


def _plain(rng):
  return [rng.standard_normal((1, FRAMES, TOKENS, HEADS, DIM)) for _ in "qkv"]


def _offset(rng):
  """Keys and values that differ by little from what all of them share, and drift from frame to frame."""
  q, k, v = _plain(rng)
  drift = 1 + 0.1 * np.arange(FRAMES)[:, None, None, None]
  return q, k + 30 * drift * rng.standard_normal((HEADS, DIM)), v + 100 * drift


def _outliers(rng):
  """Channels that are far larger than the others."""
  q, k, v = _plain(rng)
  size = np.where(np.arange(DIM) % 13 == 5, 40.0, 1.0)
  return q, k * size, v * size


def _one_takes_most(rng):
  """A key that takes most of the weight; the rest is spread over all others, each less than a step of int8."""
  q, k, v = _plain(rng)
  q[..., 0], k[..., 0], k[:, 0, 0, :, 0] = DIM**0.5, 0.0, 6.0
  return q, 0.2 * k + 0.8 * k * (np.arange(DIM) == 0), v


def _uneven(rng):
  """Frames of very different sizes, one of which has values that are all alike."""
  q, k, v = _plain(rng)
  v = v * 10.0 ** np.array([2, -6, 0, -3, 1, -1])[:, None, None, None]
  v[:, 2] = 0.7
  return q, k * np.array([1, 0, 3, 0.1, 1, 2])[:, None, None, None], v


@pytest.mark.parametrize("inputs", [_plain, _offset, _outliers, _one_takes_most, _uneven])
def test_it_is_as_near_as_the_bound_says(inputs):
  q, k, v = (x.astype(np.float32).astype(np.float64) for x in inputs(np.random.default_rng(0)))
  got = jax.jit(low_bit.window_attention, static_argnames=("rule",))(*single((q, k, v)), rule=RULE, span=Span(FRAMES))
  want, bound = _exact_and_bound(q[0], k[0], v[0])
  error = np.abs(np.asarray(got[0], np.float64) - want)
  assert (error <= bound + 1e-6 * np.abs(v).max()).all(), (error / bound).max()
  other = _run_xla(*(x.astype(jnp.bfloat16) for x in single((q, k, v))))
  plain, size = np.abs(np.asarray(other[0], np.float64) - want).mean(), np.abs(want).mean()
  print(f"{inputs.__name__}: off by {error.mean() / size:.4f} of what is read, bfloat16 by {plain / size:.4f}")


@jax.jit
def _run_xla(q, k, v):
  return xla.window_attention(q, k, v, RULE, Span(FRAMES))


def _exact_and_bound(q, k, v):
  """[F L H D] in float64: what is read, and the bound of the module's docstring."""
  q = q * DIM**-0.5
  near_k, near_v = (x - x.mean(axis=1, keepdims=True) for x in (k, v))
  rows = lambda x: np.moveaxis(x.reshape(FRAMES * TOKENS, HEADS, -1), 1, 0)  # noqa: E731  [H S D]
  q, k, v, near_k, near_v = map(rows, (q, k, v, near_k, near_v))
  frame = np.arange(FRAMES * TOKENS) // TOKENS
  ahead = frame[:, None] - frame[None, :]
  seen = (ahead >= 0) & (ahead < RULE.window_size)
  length = lambda x: np.abs(x).sum(axis=-1)  # noqa: E731
  s, r = (np.abs(x).max(axis=-1) / 127 for x in (q, near_k))
  off = (s[:, :, None] * length(near_k)[:, None] + (length(q) + DIM * s / 2)[:, :, None] * r[:, None]) / 2
  # And what float32 adds where it sums products of the whole keys.
  off += 2.0**-20 * length(q)[:, :, None] * np.abs(k).max(axis=-1)[:, None]
  e = np.where(seen, off, 0).max(axis=-1)[..., None]
  scores = np.where(seen, q @ np.moveaxis(k, 1, 2), -np.inf)
  p = np.exp(scores - scores.max(axis=-1, keepdims=True))
  p /= p.sum(axis=-1, keepdims=True)
  want = p @ v
  away = np.stack([np.einsum("qk,qkd->qd", p[h], np.abs(v[h][None] - want[h][:, None])) for h in range(HEADS)])
  largest = np.abs(near_v).reshape(HEADS, FRAMES, -1).max(axis=-1)[:, frame]  # [H S]
  small = 2.0**-17 * seen.sum(axis=-1)[:, None] * (p * largest[:, None]).max(axis=-1)[..., None]
  bound = np.expm1(2 * e) * away + np.exp(2 * e) * (0.13 * (p @ np.abs(near_v)) + small)
  back = lambda x: np.moveaxis(x, 0, 1).reshape(FRAMES, TOKENS, HEADS, DIM)  # noqa: E731
  return back(want), back(bound)


def test_a_common_offset_changes_nothing():
  """But where the last digit of a score tips the rounding of a weight. Plain int8 would tell no keys apart."""
  q, k, v = (np.round(x * 2**8) / 2**8 for x in _plain(np.random.default_rng(1)))  # so that no sum is rounded
  run = jax.jit(low_bit.window_attention, static_argnames=("rule",))
  want = np.asarray(run(*single((q, k, v)), rule=RULE, span=Span(FRAMES)))
  np.testing.assert_allclose(run(*single((q, k + 64, v)), rule=RULE, span=Span(FRAMES)), want, atol=1e-2)
  np.testing.assert_allclose(run(*single((q, k, v + 256)), rule=RULE, span=Span(FRAMES)), want + 256, atol=2e-4)


def test_a_stream_reads_what_the_whole_does():
  """Chunk by chunk, with a memory of the frames in the window; larger keys come later."""
  q, k, v = single(_uneven(np.random.default_rng(2)))
  k = k * jnp.arange(1.0, FRAMES + 1)[:, None, None, None]
  whole = jax.jit(lambda q, k, v: low_bit.window_attention(q, k, v, RULE, Span(FRAMES)))(q, k, v)

  @jax.jit
  def chunk(q, k, v, past):
    return window_attention(q, k, v, RULE, Span(4), past=past, implementation="low_bit")

  for now in (2, 4):
    past, here = slice(now - 2, now), slice(now, now + 2)
    got = chunk(q[:, here], k[:, here], v[:, here], (k[:, past], v[:, past]))
    # What is off is off by the rounding of sums: the frames' sizes differ by 10^8.
    np.testing.assert_allclose(got, whole[:, here], atol=1e-5 * float(jnp.abs(v).max()))


@pytest.mark.mistakes
def test_its_gradient_is_refused():
  q, k, v, video_k, video_v = single(draw_actions(3, frames=2))
  window = lambda k: window_attention(video_k, k, video_v, MaskRule(2), implementation="low_bit").sum()  # noqa: E731
  act = lambda q: action_attention(q, k, v, video_k, video_v, implementation="low_bit").sum()  # noqa: E731
  for loss, x in ((window, video_k), (act, q)):
    with pytest.raises(Unsupported, match="has no gradient"):
      jax.grad(jax.jit(loss))(x)
