"""A small text bridge, trained with the towers: the embedded demo's stand-in for a Qwen VLM.

A bridge has `tokenize(text) -> ids` on the host, and as a Flax module turns ids into the `Context` that both towers
read.
"""

import dataclasses
import re
import zlib

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32

from kairos_jax.interfaces import Context
from kairos_jax.model.layers import Mlp

PAD, BEGIN, FIRST_WORD = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class TextBridgeConfig:
  """Words are hashed into `vocabulary` rows; a text is cut to `tokens` of them, the begin mark included."""

  vocabulary: int = 512
  tokens: int = 16
  dim: int = 64
  text_dim: int = 64


class TextBridge(nn.Module):
  """One embedding a word and one a place, through a residual MLP. An empty text is the begin mark alone."""

  config: TextBridgeConfig

  @nn.compact
  def __call__(self, ids: Int[Array, "B N"]) -> Context:
    config = self.config
    x = nn.Embed(config.vocabulary, config.dim, name="words")(ids)
    x = x + self.param("places", nn.initializers.normal(0.02), (config.tokens, config.dim))
    x = x + Mlp(2 * config.dim, config.dim, name="mlp")(nn.LayerNorm(name="norm")(x))
    return Context(nn.Dense(config.text_dim, name="out")(x), ids != PAD)

  def tokenize(self, text: str) -> Int32[np.ndarray, "N"]:
    """Lower-case words hashed by crc32, so that no vocabulary has to be stored."""
    words = re.findall(r"[a-z0-9]+", text.lower())[: self.config.tokens - 1]
    rows = self.config.vocabulary - FIRST_WORD
    ids = [BEGIN] + [FIRST_WORD + zlib.crc32(word.encode()) % rows for word in words]
    return np.pad(np.asarray(ids, np.int32), (0, self.config.tokens - len(ids)), constant_values=PAD)


def without_text(ids: Int[Array, "B N"]) -> Int[Array, "B N"]:
  """The ids of an empty text."""
  return jnp.zeros_like(ids).at[..., 0].set(BEGIN)
