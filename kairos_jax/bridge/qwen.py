"""The released context encoders: hidden states of Qwen3.5 or Qwen2.5-VL behind the reference's prompt template."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kairos_jax.errors import KairosError
from kairos_jax.interfaces import Context
from kairos_jax.understanding import ModelConfig, model, prompt, text, weights
from kairos_jax.understanding.chat import Chat
from kairos_jax.understanding.config import read_config
from kairos_jax.understanding.images import read_processing
from kairos_jax.understanding.model import Prompts

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class QwenBridge:
  """Reads a Hugging Face folder; which of the two models it holds, its config.json says.

  Attributes:
    folder: config.json, tokenizer.json, the chat template and the safetensors files.
    tokens: length of every prompt, the template's 97 tokens and those of its image included; a longer one is refused.
    dtype: of the weights, "bfloat16" or "float32".
  """

  folder: str
  tokens: int = 512
  dtype: str = "bfloat16"

  def __post_init__(self):
    if self.tokens <= prompt.START:
      raise KairosError(f"bridge.tokens is {self.tokens}; allowed: more than the {prompt.START} of the template")

  @property
  def text_dim(self) -> int:
    return self._config.text.dim

  @property
  def comes_trained(self) -> bool:
    return True

  def init(self, key: Array) -> Params:
    """The folder's own weights: this encoder comes trained, whatever the key.

    Raises:
      KairosError: a file or tensor is missing, damaged or of another shape.
    """
    del key
    config, values = read_config(self.folder)
    return jax.tree.map(jnp.asarray, weights.load(self.folder, config, values, self.dtype, apart=False))

  def stream(self) -> Iterator[tuple[str, np.dtype, tuple[int, ...], Iterator[np.ndarray]]]:
    """As `init`, one tensor of the files in memory at a time; see `understanding.weights.stream`."""
    config, values = read_config(self.folder)
    return weights.stream(self.folder, config, values, self.dtype)

  def param_shapes(self) -> Params:
    """Shapes and types of the parameters, from config.json alone."""
    return weights.shapes(self._config, self.dtype)

  def tokenize(self, texts: Sequence[str], images: Sequence[np.ndarray] | None = None) -> Prompts:
    """Prompts in the reference's template, an image before each text where there are images.

    Raises:
      KairosError: a prompt is longer than `tokens`, an image is none, or there is not one image a text.
    """
    count = 0 if images is None else 1
    rendered = [self._chat.render(prompt.messages(text, images=count)) for text in texts]
    return self._chat.tokenize(rendered, None if images is None else [[image] for image in images], tokens=self.tokens)

  def without_text(self, tokens: Prompts) -> Prompts:
    """Empty prompts; they do not see the images either, as the reference's negative prompts never do."""
    empty = self.tokenize([""])
    names = ("ids", "length", "positions", "next_position")
    changed = {name: jnp.broadcast_to(getattr(empty, name), getattr(tokens, name).shape) for name in names}
    if tokens.patches is not None:
      changed["square"] = jnp.full(tokens.ids.shape, -1, jnp.int32)
    return dataclasses.replace(tokens, **changed)

  def encode(self, params: Params, tokens: Prompts) -> Context:
    """States behind the template, after the final norm."""
    config = self._config
    x, _ = model.hidden_states(config, params, tokens)
    return Context(*prompt.crop(text.final_norm(config.text, params["text"], x), tokens.length))

  @property
  def _config(self) -> ModelConfig:
    return _read(self.folder)[0]

  @property
  def _chat(self) -> Chat:
    return _read(self.folder)[1]


@functools.lru_cache(maxsize=4)
def _read(folder: str) -> tuple[ModelConfig, Chat]:
  config, _ = read_config(folder)
  return config, Chat(folder, config, read_processing(folder, config.text.family))
