"""Near duplicates: copies of real-looking clips, and many clips at once."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.curation import duplicates, hashing
from data_pipelines.curation.operators.view import View
from data_pipelines.curation.shots import footage
from tests.data_pipelines.conftest import make_clip

ROOT = Path(__file__).parents[3]


def moving(seed, frames=60):
  """A camera that pans over a picture, 20 frames a second."""
  world = footage._world(np.random.default_rng(seed))
  return np.stack([world[step : step + 90, 2 * step : 2 * step + 160] for step in range(frames)]).astype(np.uint8)


def signature(video, fps=20.0):
  clip = make_clip(state_dim=0, action_dim=0, frames=len(video))
  return hashing.signature(View(dataclasses.replace(clip, cameras={"front": video}, video_fps=fps)))


def resized(video, height, width):
  return np.stack([np.asarray(Image.fromarray(frame).resize((width, height))) for frame in video])


def found(signatures, quality=None):
  starts = np.cumsum([0, *map(len, signatures)])
  quality = np.ones((len(signatures), 1)) if quality is None else np.array(quality, float)
  return duplicates.find(np.concatenate(signatures), starts, quality)


@pytest.mark.parametrize(
  "change",
  [
    lambda video: video,
    lambda video: resized(video, 45, 80),
    lambda video: resized(video, 120, 230),  # also of other proportions
    lambda video: video[17:],  # shortened, by no multiple of the hashes' distance
    lambda video: video[3:43],
    lambda video: np.clip(video * 0.8 + 25.0, 0, 255).astype(np.uint8),
    lambda video: np.clip(video + np.random.default_rng(0).normal(0, 6, video.shape), 0, 255).astype(np.uint8),
  ],
  ids=["same", "smaller", "larger", "shortened", "cut out", "contrast", "noise"],
)
def test_a_changed_copy_is_found_among_others(change):
  clips = [moving(seed) for seed in range(6)]
  signatures = [signature(clip) for clip in [*clips, change(clips[2])]]
  (match,) = found(signatures)
  assert (match.copy, match.kept) == (6, 2) and match.bits <= 8


@pytest.mark.parametrize("cut", range(1, 10))
def test_a_copy_cut_between_two_ticks_is_found_with_room_to_spare(cut):
  # Ten frames a second and eight hashes: no two clips of it are hashed at the same moments unless cut by five.
  clips = [moving(seed) for seed in range(3)]
  copy = resized(clips[1][cut:], 45, 80)
  (match,) = found([signature(clip, 10.0) for clip in [*clips, copy]])
  assert (match.copy, match.kept) == (3, 1) and match.bits <= 4


def test_the_best_of_a_group_stays_and_the_first_of_equals():
  first, other = signature(moving(1)), signature(moving(2))
  group = [first, other, first, first[2:]]
  assert [(m.copy, m.kept) for m in found(group)] == [(2, 0), (3, 0)]
  pixels = [(100, 3.0), (100, 3.0), (400, 2.0), (100, 9.0)]
  assert [(m.copy, m.kept) for m in found(group, pixels)] == [(0, 2), (3, 2)]


def test_a_picture_that_stands_still_is_known_however_many_frames_it_has():
  still = signature(np.repeat(moving(4)[:1], 400, axis=0))
  assert len(set(still.tolist())) == 1
  assert [(m.copy, m.kept) for m in found([still, signature(moving(5)), still[:30]])] == [(2, 0)]


def test_black_clips_and_strangers_are_no_copies():
  black = signature(np.zeros((40, 90, 160, 3), np.uint8))
  assert not black.any()
  assert found([black, black, signature(moving(1)), signature(moving(2))]) == []
  assert found([np.zeros(0, np.uint64), black]) == []


def test_a_short_overlap_is_no_copy():
  whole = signature(moving(1, 100))
  assert found([whole[:24], whole[19:]]) == []  # 5 of 21 hashes
  assert [(m.copy, m.kept) for m in found([whole[:24], whole[8:28]])] == [(1, 0)]


def test_distance_counts_bits():
  rng = np.random.default_rng(0)
  a, b = rng.integers(0, 2**63, (2, 50), dtype=np.uint64)
  assert hashing.distance(a, b).tolist() == [bin(int(x) ^ int(y)).count("1") for x, y in zip(a, b, strict=True)]
  assert (hashing.from_text(hashing.to_text(a)) == a).all()


_MILLION = """
import resource, sys, time
import numpy as np
from data_pipelines.curation import duplicates, taxonomy
rng = np.random.default_rng(0)
clips = int(sys.argv[1])
copies = clips // 100
lengths = rng.integers(40, 320, clips)  # 5 to 40 s
starts = np.concatenate([[0], np.cumsum(lengths)])
hashes = rng.integers(1, 2**63, starts[-1], dtype=np.uint64)
pairs = rng.permutation(clips)[: 2 * copies].reshape(2, -1)
for kept, copy in pairs.T:
  count = min(lengths[kept], lengths[copy])
  flips = np.uint64(1) << rng.integers(0, 64, count, dtype=np.uint64)
  noisy = np.where(rng.random(count) < 0.7, flips, np.uint64(0))
  hashes[starts[copy] : starts[copy] + count] = hashes[starts[kept] : starts[kept] + count] ^ noisy
quality = rng.random((clips, 2))
begin = time.process_time()
found = duplicates.find(hashes, starts, quality)
print("seconds", time.process_time() - begin)
truth = {frozenset(map(int, pair)) for pair in pairs.T}
mine = {frozenset((match.copy, match.kept)) for match in found}
print("right", len(truth & mine), "wrong", len(mine - truth))
parent = np.concatenate([np.full(5, -1), rng.integers(0, np.arange(5, 300_000))]).astype(np.int32)
tree = taxonomy.Taxonomy(parent, [], {}, [])
nodes = (300_000 * rng.random(clips) ** 3).astype(np.int64)
begin = time.process_time()
drawn = taxonomy.draw(tree.shares(nodes), clips, 0)
print("taxonomy", time.process_time() - begin, len(np.unique(drawn)))
print("gigabytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
def test_a_million_clips_fit_into_four_gigabytes():
  run = subprocess.run(
    [sys.executable, "-c", _MILLION, "1000000"], cwd=ROOT, capture_output=True, text=True, check=True
  )
  print(run.stdout)
  values = dict(line.split(" ", 1) for line in run.stdout.splitlines())
  assert float(values["gigabytes"]) < 4
  right, _, wrong = values["right"].split()
  assert int(right) > 9_900 and int(wrong) < 10
