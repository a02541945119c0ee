import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kairos_jax.errors import KairosError
from kairos_jax.understanding import Sampling, generate, model, open_model, stream, text
from kairos_jax.understanding.generation import _choose, _continue, _start, stream_tokens
from tests.understanding import folder

TEXTS = ["a red robot arm", "puts the blue cup on a plate", "up"]


@pytest.fixture(scope="session")
def hybrid(tmp_path_factory):
  """Qwen3.5 alone, for what does not depend on the model: each program takes seconds to compile."""
  path = tmp_path_factory.mktemp("hybrid")
  folder.write(path, "qwen3_5")
  return open_model(path, dtype="float32", apart=True)


def prompts(reader, texts=TEXTS):
  content = [[{"type": "image"}, {"type": "text", "text": words}] for words in texts]
  rendered = [reader.chat.render([{"role": "user", "content": c}]) for c in content]
  return reader.chat.tokenize(rendered, [[picture(TEXTS.index(words))] for words in texts])


def picture(index):
  """Each text's own, of its own size."""
  return np.random.default_rng(index).integers(0, 256, (16 + 8 * index, 24, 3), np.uint8)


def tokens(reader, batch, count, sampling=None, seeds=None):
  seeds = range(len(batch.ids)) if seeds is None else seeds
  found = stream_tokens(reader.config, reader.params, batch, sampling or Sampling(count), seeds)
  return np.stack(list(found), 1)


@pytest.fixture(scope="module")
def likeliest(reader):
  """The likeliest next token of every row, from a whole pass without a cache."""

  @jax.jit
  def run(batch):
    x, _ = model.hidden_states(reader.config, reader.params, batch)
    hidden = text.final_norm(reader.config.text, reader.params["text"], model.last_of(x, batch.length))
    return jnp.argmax(text.logits(reader.config.text, reader.params["text"], hidden), -1)

  return run


def test_the_cache_gives_what_a_whole_pass_gives(reader, likeliest):
  batch, count = prompts(reader), 6
  got = tokens(reader, batch, count)
  for n in range(count):
    ids, positions = batch.ids.copy(), batch.positions.copy()
    for row, length in enumerate(batch.length):
      ids[row, length : length + n] = got[row, :n]
      positions[row, :, length : length + n] = batch.next_position[row] + np.arange(n)
    whole = dataclasses.replace(batch, ids=ids, positions=positions, length=(batch.length + n).astype(np.int32))
    np.testing.assert_array_equal(got[:, n], likeliest(whole))


def test_scanned_layers_say_the_same(home, reader):
  scanned = open_model(home, dtype="float32", apart=False)
  batch = prompts(reader)
  np.testing.assert_array_equal(tokens(scanned, batch, 8), tokens(reader, batch, 8))


@pytest.mark.slow
def test_a_row_does_not_depend_on_what_stands_beside_it(hybrid):
  sampling = Sampling(7, temperature=1.3, top_p=0.9)
  together = tokens(hybrid, prompts(hybrid), 7, sampling, [4, 5, 6])
  for row, words in enumerate(TEXTS):
    alone = tokens(hybrid, prompts(hybrid, [words]), 7, sampling, [4 + row])
    np.testing.assert_array_equal(alone[0], together[row])


def test_nothing_is_compiled_again_for_a_token_or_another_prompt_of_the_same_bucket(hybrid):
  tokens(hybrid, prompts(hybrid), 20)
  before = _start._cache_size(), _continue._cache_size()
  tokens(hybrid, prompts(hybrid, TEXTS[::-1]), 20)
  assert (_start._cache_size(), _continue._cache_size()) == before


def test_seeds_decide_what_is_sampled(hybrid):
  hot = Sampling(12, temperature=2.0)
  one, again, other = (tokens(hybrid, prompts(hybrid), 12, hot, seeds) for seeds in ([1, 2, 3], [1, 2, 3], [7, 8, 9]))
  np.testing.assert_array_equal(one, again)
  assert (one != other).any(1).all()


def test_what_is_drawn_follows_the_shares_of_the_likeliest():
  shares = np.array([0.05, 0.4, 0.25, 0.3])
  logits = np.broadcast_to(np.log(shares) * 1.7 + 3, (4000, 4)).astype(np.float32)
  keys = jax.vmap(jax.random.key)(np.arange(4000))
  drawn = _choose(logits, keys, jnp.asarray(0), jnp.asarray([1.7, 0.75]), False)
  got = np.bincount(drawn, minlength=4) / 4000
  want = np.array([0, 0.4, 0.25, 0.3]) / 0.95  # 0.4 + 0.3 is below 0.75 and the next reaches it
  np.testing.assert_allclose(got, want, atol=0.03)
  assert got[0] == 0
  drawn = _choose(logits, keys, jnp.asarray(0), jnp.asarray([1.7, 0.4]), False)
  assert set(np.asarray(drawn)) == {1}


def test_pieces_are_the_answer_and_end_tokens_end_it(hybrid):
  batch = prompts(hybrid)
  said = tokens(hybrid, batch, 15)
  ends = frozenset([int(said[0, 6])])  # as if that token ended an answer
  ended = dataclasses.replace(hybrid, end_tokens=ends)
  want = []
  for row in said.tolist():
    stop = next((i for i, token in enumerate(row) if token in ends), len(row))
    want.append(hybrid.chat.tokenizer.decode(row[:stop], skip_special_tokens=True))
  pieces = list(stream(ended, batch, Sampling(15), [0, 0, 0]))
  assert ["".join(row) for row in zip(*pieces, strict=True)] == want == generate(ended, batch, Sampling(15), [0, 0, 0])
  assert len(pieces) > 3


def spoken(pieces, stop=()):
  """What an answer gives out after each token and at its end; every token is a given piece of text."""
  from kairos_jax.understanding.generation import _Answer

  def decode(ids):
    return b"".join(pieces[i] for i in ids).decode(errors="replace")

  answer = _Answer(decode, frozenset([99]), tuple(stop))
  return [answer.add(i) for i in range(len(pieces))] + [answer.rest()]


def test_stop_strings_are_held_back_and_cut_off():
  assert spoken([b"go <", b"en", b"d> x", b"y"], ["<end>"]) == ["go ", "", "", "", ""]
  assert spoken([b"go <", b"en", b"t", b"y"], ["<end>"]) == ["go ", "", "<ent", "y", ""]
  assert spoken([b"a<e"], ["<end>"]) == ["a", "<e"]  # it was none after all
  assert spoken([b"aXbY"], ["Y", "X"]) == ["a", ""]  # the first in the text, not in the list


def test_a_character_is_given_when_it_is_whole():
  snow = "雪".encode()
  assert spoken([b"a", snow[:1], snow[1:2], snow[2:], b"!"]) == ["a", "", "", "雪", "!", ""]


@pytest.mark.parametrize(
  ("options", "says"),
  [
    (dict(max_tokens=0), "max_tokens is 0"),
    (dict(temperature=-1.0), "temperature is -1.0"),
    (dict(temperature=float("nan")), "temperature is nan"),
    (dict(top_p=0.0), "top_p is 0.0"),
    (dict(top_p=1.5), "top_p is 1.5"),
    (dict(stop=("",)), "stop holds an empty string"),
  ],
)
def test_other_knobs_are_refused(options, says):
  with pytest.raises(KairosError, match=says):
    Sampling(**options)


def test_seeds_must_be_one_a_prompt(hybrid):
  with pytest.raises(KairosError, match="2 seeds for 3 prompts"):
    generate(hybrid, prompts(hybrid), Sampling(2), [0, 1])
