"""The lists hold every block that the dense mask shows, and no other."""

import dataclasses
import itertools

import numpy as np
import pytest

from pallas_kernels.window_attention import MaskRule
from pallas_kernels.window_attention.blocks import (
  HIDDEN,
  PARTIAL,
  WHOLE,
  Plan,
  Rows,
  blocks_of_keys,
  blocks_of_queries,
  kinds,
)
from tests.pallas_kernels.window_attention.base import visible

FRAMES, PAST, TOKENS = 7, 2, 6
TOTAL = FRAMES + PAST
RULES = [
  MaskRule(window_size, dilation, history_sees_future=future, causal_history=causal, all_see_history=everyone)
  for (window_size, dilation), future, causal, everyone in itertools.product(
    [(None, 1), (2, 1), (2, 3)], *[[False, True]] * 3
  )
]
# Rows of a block of queries and of keys; pieces of a frame and blocks of several, that end with a frame and do not.
BLOCKS = [(3, 6), (2, 2), (12, 6), (5, 8), (64, 16)]


def frame_plan(rule, blocks, num_observed):
  pieces = all(TOKENS % block == 0 for block in blocks)
  query = Rows(FRAMES, TOKENS, FRAMES if pieces else rule.dilation, blocks[0], first=PAST)
  return Plan(rule, query, Rows(TOTAL, TOKENS, TOTAL if pieces else rule.dilation, blocks[1]), num_observed)


def tokens_of_blocks(rows):
  """For each block the tokens that it holds, counted in the clip."""
  number = np.arange(1, rows.frames * rows.tokens + 1).reshape(1, rows.frames, rows.tokens, 1, 1)
  units = np.asarray(rows.regroup(number))[0, ..., 0]
  cut = np.pad(units, ((0, 0), (0, rows.blocks * rows.block - rows.length))).reshape(-1, rows.block)
  return [block[block > 0] - 1 for block in cut]


def expected(plan, masks):
  """Kinds of blocks under masks [queries keys], of which any may turn out to hold."""
  queries, keys = tokens_of_blocks(plan.query), tokens_of_blocks(plan.key)
  want = np.zeros((len(queries), len(keys)), int)
  for (i, query), (j, key) in itertools.product(enumerate(queries), enumerate(keys)):
    seen = masks[:, query][:, :, key]
    full = len(query) == plan.query.block and len(key) == plan.key.block
    want[i, j] = WHOLE if full and seen.all() else PARTIAL if seen.any() else HIDDEN
  return want


@pytest.mark.parametrize("num_observed", [(3, 3), (0, 4)], ids=["known", "traced"])
@pytest.mark.parametrize("blocks", BLOCKS, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=lambda r: str(dataclasses.astuple(r)))
def test_frame_level_rule(rule, blocks, num_observed):
  plan = frame_plan(rule, blocks, num_observed)
  masks = np.array(
    [
      [[visible(rule, query, key, n, 0, TOTAL) for key in range(TOTAL)] for query in range(PAST, TOTAL)]
      for n in range(num_observed[0], num_observed[1] + 1)
    ]
  )
  masks = np.kron(masks, np.ones((1, TOKENS, TOKENS), bool))
  np.testing.assert_array_equal(kinds(plan), expected(plan, masks))


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("blocks", [(3, 6), (2, 2)], ids=str)
@pytest.mark.parametrize(("window_size", "dilation"), [(None, 1), (1, 1), (2, 1), (1, 3)])
def test_token_level_rule(window_size, dilation, blocks, pieces):
  frames = 9
  query, key = (Rows(frames, TOKENS, frames if pieces else dilation, block) for block in blocks)
  index = np.arange(frames * TOKENS)
  frame = index // TOKENS
  place = frame // dilation * TOKENS + index % TOKENS  # within the phase
  near = np.abs(place[:, None] - place) <= (np.inf if window_size is None else window_size * TOKENS)
  mask = near & (frame[:, None] % dilation == frame % dilation)
  plan = Plan(MaskRule(window_size, dilation, unit="token"), query, key)
  np.testing.assert_array_equal(kinds(plan), expected(plan, mask[None]))


@pytest.mark.parametrize("listing", [blocks_of_keys, blocks_of_queries])
def test_each_visible_block_is_visited_once(listing):
  plan = frame_plan(MaskRule(2, 3, all_see_history=True), (3, 6), (0, 2))
  want = kinds(plan) if listing is blocks_of_keys else kinds(plan).T
  got = np.zeros_like(want)
  blocks, found = listing(plan)
  for row, (numbers, row_kinds) in enumerate(zip(blocks, found, strict=True)):
    visited = row_kinds != HIDDEN
    np.add.at(got[row], numbers[visited], row_kinds[visited])
    assert (np.diff(row_kinds) <= 0).all()  # whole blocks first, repetitions last
    assert (numbers[~visited] == numbers[visited][-1]).all()
  np.testing.assert_array_equal(got, want)


def test_padding_makes_no_block_certain():
  plan = dataclasses.replace(frame_plan(MaskRule(2), (3, 6), (0, 0)), padded=True)
  assert (kinds(plan) != WHOLE).all()


def test_work_is_linear_in_frames():
  """At the released shape, whose blocks are pieces of a frame, no visited pair of tokens is hidden."""
  for dilation, frames in itertools.product((1, 4), (21, 42)):
    rule = MaskRule(3, dilation)
    query, key = Rows(frames, 1560, frames, 520), Rows(frames, 1560, frames, 1560)
    pairs = (kinds(Plan(rule, query, key)) != HIDDEN).sum() * query.block * key.block
    frame = np.arange(frames)
    assert pairs == rule.near(frame[:, None], frame).sum() * 1560**2
    assert pairs <= 5 * frames * 1560**2
