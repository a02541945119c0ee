"""A small text encoder, trained with the towers: the embedded demo's stand-in for a Qwen VLM."""

import dataclasses
import re
import zlib
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from kairos_jax.errors import KairosError
from kairos_jax.interfaces import Context
from kairos_jax.model.layers import Mlp

PAD, BEGIN, FIRST_WORD = 0, 1, 2

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TextBridge:
  """Words are hashed into rows of a table; one embedding a word and one a place pass through a residual MLP.

  Attributes:
    vocabulary: rows of the table; words that share a row are one word to the model.
    tokens: length of every text, the begin mark included; a longer one is cut.
    dim: of the embeddings.
    text_dim: of a context token.
  """

  vocabulary: int = 512
  tokens: int = 16
  dim: int = 64
  text_dim: int = 64

  def __post_init__(self):
    """KairosError if no word has a row."""
    if self.vocabulary <= FIRST_WORD:
      raise KairosError(f"bridge.vocabulary is {self.vocabulary}; allowed: {FIRST_WORD + 1} or more")

  @property
  def comes_trained(self) -> bool:
    return False

  def init(self, key: Array) -> Params:
    """Fresh parameters."""
    return jax.jit(self._module.init)(key, jnp.zeros((1, self.tokens), jnp.int32))["params"]

  def param_shapes(self) -> Params:
    """Their shapes and types."""
    return jax.eval_shape(self.init, jax.random.key(0))

  def tokenize(
    self, texts: Sequence[str], images: Sequence[np.ndarray] | None = None
  ) -> Int32[np.ndarray, "B {self.tokens}"]:
    """Lower-case words hashed by crc32, so that no vocabulary has to be stored; an empty text is the begin mark alone.

    Raises:
      KairosError: images are given; this encoder cannot see.
    """
    if images is not None:
      raise KairosError("bridge 'words' reads no images; it takes texts alone")
    return np.stack([self._ids(text) for text in texts])

  def without_text(self, tokens: Int[Array, "B N"]) -> Int[Array, "B N"]:
    """The ids of an empty text."""
    return jnp.zeros_like(tokens).at[..., 0].set(BEGIN)

  def encode(self, params: Params, tokens: Int[Array, "B N"]) -> Context:
    """The context; its mask leaves the padding out."""
    return Context(self._module.apply({"params": params}, tokens), tokens != PAD)

  @property
  def _module(self) -> "_Words":
    return _Words(self.vocabulary, self.tokens, self.dim, self.text_dim)

  def _ids(self, text: str) -> Int32[np.ndarray, "N"]:
    words = re.findall(r"[a-z0-9]+", text.lower())[: self.tokens - 1]
    rows = self.vocabulary - FIRST_WORD
    ids = [BEGIN] + [FIRST_WORD + zlib.crc32(word.encode()) % rows for word in words]
    return np.pad(np.asarray(ids, np.int32), (0, self.tokens - len(ids)), constant_values=PAD)


class _Words(nn.Module):
  vocabulary: int
  tokens: int
  dim: int
  text_dim: int

  @nn.compact
  def __call__(self, ids: Int[Array, "B N"]) -> Float[Array, "B N text_dim"]:
    x = nn.Embed(self.vocabulary, self.dim, name="words")(ids)
    x = x + self.param("places", nn.initializers.normal(0.02), (self.tokens, self.dim))
    x = x + Mlp(2 * self.dim, self.dim, name="mlp")(nn.LayerNorm(name="norm")(x))
    return nn.Dense(self.text_dim, name="out")(x)
