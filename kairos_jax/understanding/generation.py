"""Text from a vision-language model: greedy or sampled, with stop strings, for many prompts of different lengths.

Two programs do it, one for the prompts and one for a token more in every row; both are compiled for a padded prompt
length and a cache size and serve every later call that has them. Each row draws from its own seed, so that what stands
beside it changes nothing.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from kairos_jax.errors import KairosError
from kairos_jax.understanding import model, text
from kairos_jax.understanding.chat import BUCKET
from kairos_jax.understanding.config import ModelConfig
from kairos_jax.understanding.layers import Params
from kairos_jax.understanding.model import Prompts
from kairos_jax.understanding.open import LanguageModel


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How an answer is chosen.

  Attributes:
    max_tokens: at which an answer ends at the latest.
    temperature: 0 takes the likeliest token.
    top_p: the likeliest tokens whose shares reach this are drawn from.
    stop: strings that end an answer, without being part of it.
  """

  max_tokens: int = 256
  temperature: float = 0.0
  top_p: float = 1.0
  stop: tuple[str, ...] = ()

  def __post_init__(self):
    if self.max_tokens < 1:
      raise KairosError(f"max_tokens is {self.max_tokens}; allowed: whole numbers from 1")
    if not 0 <= self.temperature < float("inf"):
      raise KairosError(f"temperature is {self.temperature}; allowed: finite numbers from 0")
    if not 0 < self.top_p <= 1:
      raise KairosError(f"top_p is {self.top_p}; allowed: above 0 and up to 1")
    if "" in self.stop:
      raise KairosError("stop holds an empty string; allowed: strings of at least one character")


def generate(reader: LanguageModel, prompts: Prompts, sampling: Sampling, seeds: Sequence[int]) -> list[str]:
  """The answer to each prompt; arguments and errors as of `stream`."""
  answers = [""] * len(prompts.ids)
  for pieces in stream(reader, prompts, sampling, seeds):
    answers = [answer + piece for answer, piece in zip(answers, pieces, strict=True)]
  return answers


def stream(reader: LanguageModel, prompts: Prompts, sampling: Sampling, seeds: Sequence[int]) -> Iterator[list[str]]:
  """What each step adds to each answer, until all have ended; text that may yet be a stop string is held back.

  Args:
    prompts: as `Chat.tokenize` makes them.
    seeds: one for each prompt; without effect at temperature 0.

  Raises:
    KairosError: there are not as many seeds as prompts.
  """
  decode = functools.partial(reader.chat.tokenizer.decode, skip_special_tokens=True)
  rows = [_Answer(decode, reader.end_tokens, sampling.stop) for _ in prompts.ids]
  for tokens in stream_tokens(reader.config, reader.params, prompts, sampling, seeds):
    yield [row.add(int(token)) for row, token in zip(rows, tokens, strict=True)]
    if all(row.ended for row in rows):
      return
  yield [row.rest() for row in rows]


def stream_tokens(
  config: ModelConfig, params: Params, prompts: Prompts, sampling: Sampling, seeds: Sequence[int]
) -> Iterator[Int32[np.ndarray, "B"]]:
  """The next token of every row, `max_tokens` times; nothing ends a row here."""
  if len(seeds) != len(prompts.ids):
    raise KairosError(f"{len(seeds)} seeds for {len(prompts.ids)} prompts; allowed: one a prompt")
  size = -(-(prompts.ids.shape[1] + sampling.max_tokens) // BUCKET) * BUCKET
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  knobs = jnp.asarray([sampling.temperature or 1.0, sampling.top_p], jnp.float32)
  greedy = sampling.temperature == 0
  token, cache = _start(config, greedy, size, params, jax.tree.map(jnp.asarray, prompts), keys, knobs)
  for count in range(1, sampling.max_tokens + 1):
    # The device is given its next step before the host waits for this one's token.
    last, at = token, jnp.asarray(count, jnp.int32)
    if count < sampling.max_tokens:
      token, cache = _continue(config, greedy, params, cache, token, keys, at, knobs)
    yield np.asarray(last)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _start(config: ModelConfig, greedy: bool, size: int, params: Params, prompts: Prompts, keys: Array, knobs: Array):
  x, kept = model.hidden_states(config, params, prompts)
  hidden = text.final_norm(config.text, params["text"], model.last_of(x, prompts.length))
  cache = text.start_cache(kept, prompts.valid, prompts.next_position, size)
  return _choose(text.logits(config.text, params["text"], hidden), keys, jnp.asarray(0), knobs, greedy), cache


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3,))
def _continue(
  config: ModelConfig,
  greedy: bool,
  params: Params,
  cache: text.Cache,
  token: Int[Array, "B"],
  keys: Array,
  count: Int[Array, ""],
  knobs: Float[Array, "2"],
):
  hidden, cache = text.step(config.text, params["text"], cache, token)
  return _choose(text.logits(config.text, params["text"], hidden), keys, count, knobs, greedy), cache


def _choose(
  logits: Float[Array, "B V"], keys: Array, count: Int[Array, ""], knobs: Float[Array, "2"], greedy: bool
) -> Int[Array, "B"]:
  """The likeliest token, or one drawn from the likeliest whose shares reach top_p."""
  if greedy:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  temperature, top_p = knobs
  order = jnp.argsort(-logits, axis=-1)
  ranked = jnp.take_along_axis(logits, order, axis=-1) / temperature
  shares = jax.nn.softmax(ranked, axis=-1)
  # A token is drawn from where those likelier than it do not reach top_p yet; the first always is.
  ranked = jnp.where(jnp.cumsum(shares, axis=-1) - shares < top_p, ranked, -jnp.inf)
  rank = jax.vmap(lambda key, x: jax.random.categorical(jax.random.fold_in(key, count), x))(keys, ranked)
  return jnp.take_along_axis(order, rank[:, None], axis=-1)[:, 0].astype(jnp.int32)


class _Answer:
  """One row's text as it grows."""

  def __init__(self, decode: Callable[[list[int]], str], end_tokens: frozenset[int], stop: tuple[str, ...]):
    self._decode, self._end_tokens, self._stop = decode, end_tokens, stop
    self._ids: list[int] = []
    self._given = ""
    self.ended = False

  def add(self, token: int) -> str:
    """What can be said for sure after one token more."""
    if self.ended:
      return ""
    if token in self._end_tokens:
      return self.rest()
    self._ids.append(token)
    said = self._said()
    found = [at for at in (said.find(stop) for stop in self._stop) if at >= 0]
    if found:
      self.ended = True
      return self._give(said[: min(found)])
    return self._give(said[: len(said) - self._unsure(said)])

  def rest(self) -> str:
    """What was held back, at the end of the answer."""
    if self.ended:
      return ""
    self.ended = True
    return self._give(self._said())

  def _said(self) -> str:
    return self._decode(self._ids)

  def _unsure(self, said: str) -> int:
    """Characters at the end that later tokens may change: part of a character, or of a stop string."""
    broken = len(said) - len(said.rstrip("\ufffd"))
    parts = [n for stop in self._stop for n in range(1, len(stop)) if said.endswith(stop[:n])]
    return max([broken, *parts])

  def _give(self, said: str) -> str:
    piece = said[len(self._given) :]
    self._given += piece
    return piece
