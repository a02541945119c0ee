"""Gated delta net: the video tower's persistent memory. Linear cost, constant state."""

import math
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from pallas_kernels.gated_delta import gated_delta

TAPS = 4


@flax.struct.dataclass
class DeltaState:
  """What one layer remembers of all tokens so far.

  Attributes:
    matrix: the associative memory, float32.
    tail: for q, k and v the last TAPS inputs of the short convolution.
  """

  matrix: Float[Array, "B H K V"]
  tail: dict[str, Float[Array, "B 4 C"]]


class GatedDeltaNet(nn.Module):
  """Source: Gated DeltaNet (arXiv 2412.06464) as the reference builds it: output gate, short convolutions."""

  dim: int
  heads: int
  key_dim: int
  value_dim: int
  eps: float
  dtype: Any

  @nn.compact
  def __call__(
    self, x: Float[Array, "B T D"], state: DeltaState | None = None
  ) -> tuple[Float[Array, "B T D"], DeltaState]:
    """Reads and writes the memory in the order of the tokens, starting from `state` (empty if None)."""
    widths = {"q": self.heads * self.key_dim, "k": self.heads * self.key_dim, "v": self.heads * self.value_dim}
    mixed, tail = {}, {}
    for name, width in widths.items():
      raw = nn.Dense(width, use_bias=False, dtype=self.dtype, name=f"{name}_proj")(x)
      taps = self.param(f"{name}_conv", nn.initializers.normal(TAPS**-0.5), (TAPS, width)).astype(self.dtype)
      past = jnp.zeros((x.shape[0], TAPS, width), raw.dtype) if state is None else state.tail[name].astype(raw.dtype)
      joined = jnp.concatenate([past, raw], axis=1)
      tail[name] = joined[:, -TAPS:]
      mixed[name] = nn.silu(sum(joined[:, i + 1 : i + 1 + x.shape[1]] * taps[i] for i in range(TAPS)))

    q, k, v = (rearrange(mixed[name], "b t (h d) -> b t h d", h=self.heads) for name in "qkv")
    q, k = l2_normalise(q) * self.key_dim**-0.5, l2_normalise(k)
    # Gates in float32: they are multiplied along the whole sequence.
    a = nn.Dense(self.heads, use_bias=False, dtype=self.dtype, name="a_proj")(x).astype(jnp.float32)
    a_log = self.param("A_log", _init_a_log, (self.heads,))
    dt_bias = self.param("dt_bias", _init_dt_bias, (self.heads,))
    log_decay = -jnp.exp(a_log) * jax.nn.softplus(a + dt_bias)
    beta = jax.nn.sigmoid(nn.Dense(self.heads, use_bias=False, dtype=self.dtype, name="b_proj")(x).astype(jnp.float32))

    read, matrix = gated_delta(q, k, v, log_decay, beta, None if state is None else state.matrix)
    read = nn.RMSNorm(self.eps, dtype=self.dtype, name="o_norm")(read)
    gate = nn.Dense(widths["v"], use_bias=False, dtype=self.dtype, name="g_proj")(x)
    read = rearrange(read, "b t h d -> b t (h d)") * nn.silu(gate)
    return nn.Dense(self.dim, use_bias=False, dtype=self.dtype, name="o_proj")(read), DeltaState(matrix, tail)


def l2_normalise(x: Float[Array, "*B K"]) -> Float[Array, "*B K"]:
  """Unit length in float32, with the reference's epsilon under the root."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-6)


def _init_a_log(key, shape):
  return jnp.log(jax.random.uniform(key, shape, minval=1e-3, maxval=16.0))


def _init_dt_bias(key, shape):
  """Inverse softplus of a step log-uniform in [1e-3, 1e-1]."""
  step = jnp.exp(jax.random.uniform(key, shape, minval=math.log(1e-3), maxval=math.log(1e-1)))
  return step + jnp.log(-jnp.expm1(-step))
