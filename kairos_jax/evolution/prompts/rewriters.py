"""Who says which prompt is tried next."""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from data_pipelines.curation.captions.chat import Model, ask
from kairos_jax.errors import KairosError
from kairos_jax.evolution.prompts.tree import PARTS, Node, best

_REWRITE = (
  "A video model was asked for something, and these are frames of what it made. Its videos obey some words and not "
  'others. Write a better prompt for the same wish. Answer with one JSON object: {"prompt": the words}. '
)
_LONGEST = 1000  # characters of a prompt


@runtime_checkable
class Rewriter(Protocol):
  """Proposes words for what the user asked for."""

  def rewrite(
    self, tree: Sequence[Node], stills: UInt8[np.ndarray, "N H W 3"], rng: np.random.Generator
  ) -> tuple[str, int]:
    """The next prompt, and the place of the one that it was made from.

    Args:
      tree: what was tried, the user's own words first.
      stills: of the best video of the best prompt.
      rng: of all that chance decides.
    """


class SlotRewriter:
  """Knows the model's words and not what they mean: fills a sentence's slots, and changes those that are blamed."""

  def __init__(self, sentence: str, slots: Mapping[str, Sequence[str]]):
    """`sentence` has each of the `slots`' names in braces; critiques blame slots by their names."""
    self._sentence, self._slots = sentence, slots

  def rewrite(
    self, tree: Sequence[Node], stills: UInt8[np.ndarray, "N H W 3"], rng: np.random.Generator
  ) -> tuple[str, int]:
    """See `Rewriter`. The best sentence with other words in the slots that are blamed, and else in one slot."""
    del stills
    tried = {node.prompt for node in tree}
    sentences = [place for place, node in enumerate(tree) if self._read(node.prompt)]
    if not sentences:
      return self._sentence.format(**{name: rng.choice(words) for name, words in self._slots.items()}), 0
    place = max(sentences, key=lambda one: tree[one].critique.reward)
    said = self._read(tree[place].prompt)
    blamed = [name for name in tree[place].critique.wrong if name in self._slots]
    text = tree[place].prompt
    for names in (blamed, *([name] for name in blamed), *([name] for name in rng.permutation(list(self._slots)))):
      text = self._changed(said, names, rng)
      if text not in tried:
        break
    return text, place

  def _changed(self, said: Mapping[str, str], names: Sequence[str], rng: np.random.Generator) -> str:
    others = {name: [word for word in self._slots[name] if word != said[name]] for name in names}
    return self._sentence.format(**{**said, **{name: str(rng.choice(words)) for name, words in others.items()}})

  def _read(self, prompt: str) -> dict[str, str]:
    """The words of a prompt's slots; empty for one that is no such sentence."""
    every = (dict(zip(self._slots, words, strict=True)) for words in itertools.product(*self._slots.values()))
    return next((one for one in every if self._sentence.format(**one) == prompt), {})


class ChatRewriter:
  """Asks a vision-language model, which sees the best video so far, all that was tried and what is wrong."""

  def __init__(self, model: Model):
    self._model = model

  def rewrite(
    self, tree: Sequence[Node], stills: UInt8[np.ndarray, "N H W 3"], rng: np.random.Generator
  ) -> tuple[str, int]:
    """See `Rewriter`. Raises KairosError if the model gives no prompt."""
    del rng
    tried = [
      {
        "prompt": node.prompt,
        **{part: round(getattr(node.critique, part), 2) for part in PARTS},
        "wrong": node.critique.wrong,
      }
      for node in tree
    ]
    about = f"The wish in the user's words: {json.dumps(tree[0].prompt)}. What was tried, scores from 0 to 1: "
    answer = ask(self._model, _REWRITE + about + json.dumps(tried), list(stills))
    prompt = " ".join(str(answer.get("prompt") or "").split())
    if not prompt or len(prompt) > _LONGEST:
      raise KairosError(f"{self._model.name} gave no prompt but {str(answer)[:100]}")
    return prompt, best(tree)
