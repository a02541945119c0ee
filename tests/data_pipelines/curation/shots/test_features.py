"""Features of frames, against slow but plain computations; and against PySceneDetect's own."""

import colorsys

import numpy as np
import pytest

from data_pipelines.curation.shots import features

RNG = np.random.default_rng(3)


def noise(count):
  return RNG.integers(0, 256, (count, *features.SIZE, 3), dtype=np.uint8)


def test_hue_saturation_and_value_are_those_of_the_standard_library():
  pictures = np.concatenate([RNG.integers(0, 256, (40, 3)), [[0, 0, 0], [255, 255, 255], [7, 7, 7]]]).astype(np.uint8)
  ours = features.hsv(pictures[None])[0]
  theirs = [np.array(colorsys.rgb_to_hsv(*(color / 255))) * (180, 255, 255) for color in pictures.astype(float)]
  np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_the_batches_do_not_show(monkeypatch):
  frames = noise(21)
  whole = features.of_frames(iter(frames))
  monkeypatch.setattr(features, "_AT_ONCE", 5)
  for ours, theirs in zip(features.of_frames(iter(frames)), whole, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
  assert all(len(values) == 21 for values in whole)
  assert all(len(values) == 0 for values in features.of_frames(iter([])))


def test_changes_are_of_a_frame_and_the_one_before():
  frames = np.repeat(noise(2), [3, 2], axis=0)
  seen = features.of_frames(iter(frames))
  assert seen.content[3] > 30 and seen.hash[3] > 0.3 and np.delete(seen.content, 3).max() == 0
  assert np.delete(seen.hash, 3).max() == 0
  np.testing.assert_allclose(np.delete(seen.correlation, 3), 1, atol=1e-5)
  np.testing.assert_allclose(seen.brightness, frames.mean(axis=(1, 2, 3)), rtol=1e-5)
  block = frames[4, 8:12, 12:16].astype(float).mean(axis=(0, 1))
  np.testing.assert_allclose(seen.thumbnail[4, 2, 3], block, atol=0.51)


def test_a_mixture_lacks_detail_as_computed():
  first, second = noise(2).astype(np.float32)
  shares = np.linspace(0, 1, 6)
  frames = np.stack([(1 - share) * first + share * second for share in shares]).round().astype(np.uint8)
  detail = features.of_frames(iter(frames)).detail
  expected = detail[0] * (1 - shares) ** 2 + detail[-1] * shares**2  # of two independent pictures
  np.testing.assert_allclose(detail, expected, rtol=0.08)


def test_content_is_scored_as_by_pyscenedetect():
  detectors = pytest.importorskip("scenedetect.detectors")
  common = pytest.importorskip("scenedetect.common")
  frames = noise(6)
  frames[3:] = frames[3:] // 2 + 30
  theirs = detectors.ContentDetector()
  for number, frame in enumerate(frames):
    theirs.process_frame(common.FrameTimecode(number, 25.0), frame[..., ::-1])
    if number:
      score = theirs._calculate_frame_score(common.FrameTimecode(number, 25.0), frame[..., ::-1])
      assert score == 0  # the same frame again: the detector has moved on
  ours = features.of_frames(iter(frames)).content
  scorer = detectors.ContentDetector()
  scores = [scorer._calculate_frame_score(common.FrameTimecode(n, 25.0), f[..., ::-1]) for n, f in enumerate(frames)]
  np.testing.assert_allclose(ours, scores, atol=0.7)  # OpenCV rounds hue, saturation and value to integers
