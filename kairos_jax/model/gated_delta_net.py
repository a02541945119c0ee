"""Gated delta net: the video tower's persistent memory. Linear cost, constant state."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from kairos_jax.model.additive_memory import additive_memory
from kairos_jax.model.low_bit import Dense
from pallas_kernels.gated_delta import gated_delta, short_convolution

TAPS = 4


@flax.struct.dataclass
class DeltaState:
  """What one layer remembers of all tokens so far; outside the tower, a leading axis G counts layer groups.

  Attributes:
    matrix: the associative memory, float32.
    tail: for q, k and v the last TAPS inputs of the short convolution.
  """

  matrix: Float[Array, "*G B H K V"]
  tail: dict[str, Float[Array, "*G B 4 C"]]


class GatedDeltaNet(nn.Module):
  """Source: Gated DeltaNet (arXiv 2412.06464) as the reference builds it: output gate, short convolutions."""

  dim: int
  heads: int
  key_dim: int
  value_dim: int
  eps: float
  dtype: Any
  kernels: str = "auto"
  decay: bool = True
  correction: bool = True

  @nn.compact
  def __call__(
    self, x: Float[Array, "B T D"], state: DeltaState | None = None, tokens: int | None = None
  ) -> tuple[Float[Array, "B T D"], DeltaState]:
    """Reads and writes the memory in the order of the tokens, starting from `state` (empty if None).

    Only the first `tokens` are written, if that is given: padding at the end leaves no trace in the state.
    """
    widths = {"q": self.heads * self.key_dim, "k": self.heads * self.key_dim, "v": self.heads * self.value_dim}
    mixed, tail = {}, {}
    for name, width in widths.items():
      raw = Dense(width, use_bias=False, dtype=self.dtype, name=f"{name}_proj")(x)
      taps = self.param(f"{name}_conv", nn.initializers.normal(TAPS**-0.5), (TAPS, width)).astype(self.dtype)
      past = jnp.zeros((x.shape[0], TAPS, width), raw.dtype) if state is None else state.tail[name].astype(raw.dtype)
      by_head = (rearrange(y, "... (h d) -> ... h d", h=self.heads) for y in (raw, taps, past))
      convolved, last = (rearrange(y, "b t h d -> b t (h d)") for y in short_convolution(*by_head, tokens=tokens))
      tail[name], mixed[name] = last, nn.silu(convolved)

    mixed["q"] = l2_normalize(mixed["q"], self.heads) * self.key_dim**-0.5
    mixed["k"] = l2_normalize(mixed["k"], self.heads)
    q, k, v = (rearrange(mixed[name], "b t (h d) -> b t h d", h=self.heads) for name in "qkv")
    # Gates in float32: they are multiplied along the whole sequence.
    a = nn.Dense(self.heads, use_bias=False, dtype=self.dtype, name="a_proj")(x).astype(jnp.float32)
    a_log = self.param("A_log", _init_a_log, (self.heads,))
    dt_bias = self.param("dt_bias", _init_dt_bias, (self.heads,))
    a_log, dt_bias = a_log.astype(jnp.float32), dt_bias.astype(jnp.float32)
    log_decay = -jnp.exp(a_log) * jax.nn.softplus(a + dt_bias) if self.decay else jnp.zeros_like(a)
    beta = jax.nn.sigmoid(nn.Dense(self.heads, use_bias=False, dtype=self.dtype, name="b_proj")(x).astype(jnp.float32))
    if tokens is not None:
      real = (jnp.arange(x.shape[1]) < tokens)[:, None]
      log_decay, beta = jnp.where(real, log_decay, 0.0), jnp.where(real, beta, 0.0)

    for name, value in dict(k=k, v=v, log_decay=log_decay, beta=beta).items():
      self.sow("intermediates", name, value)
    rule = functools.partial(gated_delta, implementation=self.kernels) if self.correction else additive_memory
    read, matrix = rule(q, k, v, log_decay, beta, None if state is None else state.matrix)
    read = HeadNorm(self.heads, self.eps, name="o_norm")(rearrange(read, "b t h d -> b t (h d)"))
    gate = nn.Dense(widths["v"], use_bias=False, dtype=self.dtype, name="g_proj")(x)
    read = read.astype(self.dtype) * nn.silu(gate)
    return Dense(self.dim, use_bias=False, dtype=self.dtype, name="o_proj")(read), DeltaState(matrix, tail)


class HeadNorm(nn.Module):
  """RMS norm of each head in float32, with one scale for all heads."""

  heads: int
  eps: float

  @nn.compact
  def __call__(self, x: Float[Array, "*B HD"]) -> Float[Array, "*B HD"]:
    width = x.shape[-1] // self.heads
    scale = self.param("scale", nn.initializers.ones, (width,))
    x = _scale_heads(x, self.heads, lambda squares: jax.lax.rsqrt(squares / width + self.eps))
    return x * jnp.tile(scale, self.heads)


def l2_normalize(x: Float[Array, "*B HD"], heads: int) -> Float[Array, "*B HD"]:
  """Unit length of each head in float32, with the reference's epsilon under the root."""
  return _scale_heads(x, heads, lambda squares: jax.lax.rsqrt(squares + 1e-6))


def _scale_heads(
  x: Float[Array, "*B HD"], heads: int, factor: Callable[[Float[Array, "*B H"]], Float[Array, "*B H"]]
) -> Float[Array, "*B HD"]:
  """Multiplies each head by what `factor` makes of the sum of its squares.

  Both ways between heads and channels go through a product with zeros and ones, and no array [H D] is formed: on a TPU
  20 heads are no whole tile, and each change of layout is a copy in float32 (docs/performance.md).
  """
  channel, head = (jax.lax.broadcasted_iota(jnp.int32, (x.shape[-1], heads), axis) for axis in (0, 1))
  of_head = (channel // (x.shape[-1] // heads) == head).astype(jnp.float32)
  precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else jax.lax.Precision.HIGH
  x = x.astype(jnp.float32)
  return x * jnp.dot(factor(jnp.dot(x * x, of_head, precision=precision)), of_head.T, precision=precision)


def _init_a_log(key, shape):
  return jnp.log(jax.random.uniform(key, shape, minval=1e-3, maxval=16.0))


def _init_dt_bias(key, shape):
  """Inverse softplus of a step log-uniform in [1e-3, 1e-1]."""
  step = jnp.exp(jax.random.uniform(key, shape, minval=math.log(1e-3), maxval=math.log(1e-1)))
  return step + jnp.log(-jnp.expm1(-step))
