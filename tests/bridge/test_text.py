import zlib

import jax
import numpy as np
import pytest

from kairos_jax.bridge import TextBridge
from kairos_jax.bridge.text import BEGIN, FIRST_WORD, PAD
from kairos_jax.errors import KairosError

BRIDGE = TextBridge(vocabulary=64, tokens=5, dim=8, text_dim=12)


def test_words_are_hashed_the_same_everywhere():
  (ids,) = BRIDGE.tokenize(["Touch the BALL!"])
  words = [FIRST_WORD + zlib.crc32(word) % (64 - FIRST_WORD) for word in (b"touch", b"the", b"ball")]
  np.testing.assert_array_equal(ids, [BEGIN, *words, PAD])
  assert ids.dtype == np.int32
  np.testing.assert_array_equal(BRIDGE.tokenize(["touch\nthe  ball"])[0], ids)


def test_long_texts_are_cut_and_no_word_is_padding():
  (ids,) = BRIDGE.tokenize([" ".join(f"word{i}" for i in range(500))])
  assert ids.shape == (5,) and (ids[1:] >= FIRST_WORD).all() and (ids < 64).all()


def test_without_text_is_the_empty_text():
  ids = BRIDGE.tokenize(["touch the ball", ""])
  np.testing.assert_array_equal(BRIDGE.without_text(ids), ids[[1, 1]])


def test_context_masks_padding_and_knows_words_and_places():
  context = BRIDGE.encode(BRIDGE.init(jax.random.key(0)), BRIDGE.tokenize(["touch the ball", "the touch"]))
  assert context.tokens.shape == (2, 5, 12)
  np.testing.assert_array_equal(context.mask, [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])
  begin, word = context.tokens[:, 0], (context.tokens[0, 1], context.tokens[1, 2])
  np.testing.assert_allclose(begin[0], begin[1], atol=1e-6)
  assert np.abs(word[0] - word[1]).max() > 1e-3  # the same word in another place


def test_it_cannot_see():
  with pytest.raises(KairosError, match="reads no images"):
    BRIDGE.tokenize(["touch"], images=[np.zeros((8, 8, 3), np.uint8)])
