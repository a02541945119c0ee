"""A vision-language model of this package as the captioner of a curation; see `data_pipelines.curation.captions`."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from kairos_jax.understanding.generation import Sampling, generate
from kairos_jax.understanding.open import LanguageModel, open_model


@dataclasses.dataclass(frozen=True)
class LocalModel:
  """A model by its folder, which each process opens once, at the first question.

  Attributes:
    folder: as it was released.
    max_tokens: of an answer.
    attempts: one, for its likeliest answer is always the same.
  """

  folder: str
  max_tokens: int = 512
  attempts: int = 1

  @property
  def name(self) -> str:
    """Of the model."""
    return f"qwen:{Path(self.folder).name}"

  def complete(self, text: str, pictures: Sequence[UInt8[np.ndarray, "H W 3"]]) -> str:
    """The likeliest answer to pictures and a text.

    Raises:
      KairosError: a file is missing, damaged, or of another model.
    """
    reader = _opened(self.folder)
    content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": text}]
    prompt = reader.chat.render([{"role": "user", "content": content}], enable_thinking=False)
    batch = reader.chat.tokenize([prompt], [list(pictures)])
    (answer,) = generate(reader, batch, Sampling(self.max_tokens), [0])
    return answer


@functools.lru_cache(maxsize=1)
def _opened(folder: str) -> LanguageModel:
  return open_model(folder)
