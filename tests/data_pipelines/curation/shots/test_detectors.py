"""Detectors on footage whose transitions are known."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.curation.shots import combine, detectors, features, footage
from data_pipelines.curation.shots.combine import Span
from data_pipelines.curation.shots.detectors import Transition
from data_pipelines.curation.shots.measure import compare


def seen(frames):
  return features.of_frames(np.asarray(Image.fromarray(frame).resize(features.SIZE[::-1])) for frame in frames)


def scene(seed):
  world = footage._world(np.random.default_rng(seed))
  return world[: footage.SIZE[0], : footage.SIZE[1]]


def still(seed, count):
  return [scene(seed)] * count


def video(*stretches):
  return seen(np.concatenate([np.stack(stretch) for stretch in stretches]).clip(0, 255).astype(np.uint8))


def kinds(transitions):
  return [(transition.start, transition.end, transition.kind) for transition in transitions]


def test_a_hard_cut_is_found_at_its_frame_by_every_detector_of_cuts():
  found = video(still(1, 20), still(2, 15))
  for name in ("content", "adaptive", "histogram", "perceptual"):
    assert [cut.start for cut in detectors.DETECTORS[name](found)] == [20], name
  assert kinds(combine.ensemble(found)) == [(20, 20, "adaptive")]


def test_a_flash_is_no_cut():
  flash = [scene(1) * 0.2 + 204, scene(1) * 0.6 + 102]
  found = video(still(1, 20), flash, still(1, 20))
  assert detectors.adaptive(found)  # as PySceneDetect is fooled
  assert combine.ensemble(found) == []


def test_a_fade_through_black_is_one_transition_around_the_dark_frames():
  down, up = ([scene(seed) * share for share in np.linspace(1, 0, 12)] for seed in (1, 2))
  (fade,) = combine.ensemble(video(still(1, 20), down, up[::-1], still(2, 20)))
  assert fade.kind == "fade" and 26 < fade.start < 32 and 32 < fade.end < 38


def test_a_dissolve_is_found_and_a_pan_is_none():
  shares = np.arange(1, 13) / 13
  mixed = [scene(1) * (1 - share) + scene(2) * share for share in shares]
  (dissolve,) = combine.ensemble(video(still(1, 20), mixed, still(2, 20)))
  assert dissolve.kind == "dissolve" and abs(dissolve.start - 20) <= 3 and abs(dissolve.end - 32) <= 3
  world = footage._world(np.random.default_rng(1))
  pan = [world[:90, 4 * step : 4 * step + 160] for step in range(40)]
  assert combine.ensemble(video(pan)) == []


@pytest.mark.parametrize("frames", [0, 1, 2, 4, 9])
def test_short_videos_have_no_transition(frames):
  empty = np.zeros((0, *footage.SIZE, 3), np.uint8)
  assert combine.ensemble(seen(np.stack(still(1, frames)).astype(np.uint8) if frames else empty)) == []


def test_synthetic_footage_is_segmented_well():
  made = footage.make(11, shots=16)
  result = compare(combine.ensemble(seen(made.frames)), made.truth)
  assert len(made.truth) == 15 and len(made.flashes) == 2
  assert result.right >= 14 and result.found - result.right <= 1


def test_shots_follow_the_rule_of_the_paper():
  # At 10 Hz: 4.9 s is dropped, 5 s and 40 s stay, 40.1 s and 63 s are split; a dissolve's frames belong to nobody.
  lengths = [49, 50, 400, 401, 630, 20]
  starts = np.cumsum([0, *lengths])
  cuts = [Transition(int(start), int(start), "cut") for start in starts[1:-1]]
  cuts[1] = Transition(cuts[1].start - 7, cuts[1].end + 5, "dissolve")  # the shot of 50 becomes one of 43
  made = combine.shots(cuts, int(starts[-1]), 10.0)
  assert made.short == [Span(0, 49), Span(49, 92), Span(1530, 1550)]
  assert made.kept == [
    Span(104, 499),
    Span(499, 699),
    Span(699, 900),
    *(Span(900 + 200 * i, 1100 + 200 * i) for i in (0, 1)),
    Span(1300, 1530),
  ]


def test_comparing_counts_each_transition_once():
  truth = [Transition(10, 10, "cut"), Transition(30, 42, "dissolve")]
  found = [Transition(9, 9, "a"), Transition(11, 11, "a"), Transition(36, 36, "a"), Transition(60, 60, "a")]
  result = compare(found, truth)
  assert (result.right, result.found, result.true) == (2, 4, 2)
  assert result.precision == 0.5 and result.recall == 1.0
