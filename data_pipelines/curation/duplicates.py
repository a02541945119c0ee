"""Near duplicates among many clips: shortened, recoded, rescaled copies, found by their hashes over time.

Two clips are compared where a half of some hash of theirs is the same, 32 bits; of a recoded copy's many frames some
always are. They are duplicates if, one laid over the other at the offset in time where such hashes meet, their hashes
differ by few bits on average; a copy cut between two ticks of the hashes is late by up to a half of one, so that each
hash looks at its neighbors too. Memory is some 16 bytes a hash, so that a million clips of 20 s fit into 4 GB.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt32, UInt64

from data_pipelines.curation import hashing

VERSION = 2
_CROWD = 32  # hashes that share a half: beyond this many it tells nothing (a title card, a test pattern)


@dataclasses.dataclass(frozen=True)
class Rule:
  """When two clips are the same.

  Attributes:
    bits: of 64 that may differ, a mean over the overlap.
    seconds: that have to overlap, at least, unless the shorter clip is shorter.
    share: of the shorter clip that has to overlap.
  """

  bits: float = 8.0
  seconds: float = 1.5
  share: float = 0.5


class Match(NamedTuple):
  """A clip that is a copy of a better one, by their numbers, and the mean of the bits that differ."""

  copy: int
  kept: int
  bits: float


def find(
  hashes: UInt64[np.ndarray, "N"],
  starts: Int[np.ndarray, "K_1"],
  quality: Float[np.ndarray, "K Q"],
  rule: Rule = Rule(),
) -> list[Match]:
  """The clips that are copies, each with the best clip of its group.

  Args:
    hashes: of all clips, one clip after the other.
    starts: of each clip in `hashes`, and their end: K + 1.
    quality: of each clip, compared column by column, more is better: pixels, then seconds. The first of equals stays.
    rule: when two are the same.
  """
  pairs = _candidates(hashes, starts)
  parent = np.arange(len(starts) - 1)
  bits: dict[tuple[int, int], float] = {}
  for first, second, offset in pairs:
    if (first, second) in bits:
      continue
    apart = _apart(hashes[starts[first] : starts[first + 1]], hashes[starts[second] : starts[second + 1]], offset, rule)
    if apart is not None:
      bits[first, second] = apart
      parent[_root(parent, second)] = _root(parent, first)
  groups: dict[int, list[int]] = {}
  for clip in sorted({clip for pair in bits for clip in pair}):
    groups.setdefault(_root(parent, clip), []).append(clip)
  found = []
  for members in groups.values():
    best = max(members, key=lambda clip: (*quality[clip], -clip))
    for clip in members:
      if clip != best:
        # A chain's ends may never have been compared: then the bits to its nearest neighbor stand for them.
        direct = bits.get((min(clip, best), max(clip, best)))
        near = min(value for pair, value in bits.items() if clip in pair) if direct is None else direct
        found.append(Match(clip, best, near))
  return sorted(found)


def _candidates(hashes: UInt64[np.ndarray, "N"], starts: Int[np.ndarray, "K_1"]) -> Sequence[tuple[int, int, int]]:
  """Pairs of clips, the first before the second, and the second's start in the first, the most frequent ones first.

  A pair that meets but once at an offset, or at it and the next, does so by chance: among a million clips there are
  many.
  """
  begins_clip = np.zeros(len(hashes), bool)
  begins_clip[starts[:-1][np.diff(starts) > 0]] = True
  meetings = [np.zeros((0, 3), np.int64)]
  both = hashes.astype("<u8", copy=False).view("<u4").reshape(-1, 2)
  for half in both.T:  # views: a copy for a million clips would be large
    # A picture that stands still says the same thing over and over: once is enough.
    new = begins_clip.copy()
    new[1:] |= half[1:] != half[:-1]
    new &= hashes != 0
    group = (half >> np.uint32(28)).astype(np.uint8)
    for turn in range(16):  # a sixteenth of all halves at a time, to hold less at once
      places = np.flatnonzero(new & (group == turn))
      # The half above and its place below in one number: sorting brings equal halves together, without an index.
      keys = (half[places].astype(np.uint64) << np.uint64(32)) | places.astype(np.uint64)
      keys.sort()
      meetings += _meetings((keys >> np.uint64(32)).astype(np.uint32), keys.astype(np.uint32), starts)
  # NOTE: places ascend within a half, so the first clip of a pair is the one with the lower number.
  every, counts = np.unique(np.concatenate(meetings), axis=0, return_counts=True)
  # A copy cut between two ticks meets now at one offset, now at the next: both count for either.
  adjacent = (np.diff(every, axis=0) == (0, 0, 1)).all(axis=1)
  own = counts.copy()
  counts[1:] += np.where(adjacent, own[:-1], 0)
  counts[:-1] += np.where(adjacent, own[1:], 0)
  order = np.argsort(-counts, kind="stable")
  return [(int(a), int(b), int(offset)) for a, b, offset in every[order[counts[order] > 1]]]


def _meetings(
  half: UInt32[np.ndarray, "N"], place: UInt32[np.ndarray, "N"], starts: Int[np.ndarray, "K_1"]
) -> Iterator[Int[np.ndarray, "M 3"]]:
  """Of sorted halves: which two clips share one, and the offset at which they do."""
  if not len(half):
    return
  first = np.flatnonzero(np.concatenate([[True], half[1:] != half[:-1]]))
  sizes = np.diff(np.append(first, len(half)))
  size = np.repeat(sizes, sizes)
  shared = (size > 1) & (size <= _CROWD)
  half, place = half[shared], place[shared].astype(np.int64)
  for ahead in range(1, min(_CROWD, len(half))):
    meets = half[ahead:] == half[:-ahead]
    left, right = place[:-ahead][meets], place[ahead:][meets]
    clips = [np.searchsorted(starts, member, side="right") - 1 for member in (left, right)]
    offset = (left - starts[clips[0]]) - (right - starts[clips[1]])
    yield np.stack([*clips, offset], axis=1)[clips[0] != clips[1]]


def _apart(first: UInt64[np.ndarray, "N"], second: UInt64[np.ndarray, "M"], offset: int, rule: Rule) -> float | None:
  """Mean bits that differ with the second laid over the first at an offset, give or take one; None if no match."""
  start, stop = max(0, offset), min(len(first), len(second) + offset)
  shorter = min(len(first), len(second))
  if stop - start < max(rule.share * shorter, min(rule.seconds * hashing.HZ, shorter)):
    return None
  ours, places = first[start:stop], np.arange(start, stop) - offset
  near = second[np.clip(places + np.array([[-1], [0], [1]]), 0, len(second) - 1)]
  told = (ours != 0) | (near[1] != 0)  # two frames without contrast agree on nothing
  if told.sum() < 2:
    return None
  bits = float(hashing.distance(ours[told], near[:, told]).min(axis=0).mean())
  return bits if bits <= rule.bits else None


def _root(parent: Int[np.ndarray, "K"], clip: int) -> int:
  while parent[clip] != clip:
    parent[clip] = parent[parent[clip]]
    clip = int(parent[clip])
  return clip
