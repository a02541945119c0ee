"""Samples against exact times: every number of these clips tells when it was taken."""

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines import sampling
from data_pipelines.sampling import Window
from tests.data_pipelines.conftest import identity, make_clip, make_embodiment

RATES = (Fraction(15, 2), Fraction(10), Fraction(15), Fraction(50, 3), Fraction(30))


def window(frames=5, video_fps=10.0, action_steps=4, state_dim=3, action_dim=3, embodiment=None):
  embodiment = embodiment or make_embodiment()
  return Window(frames, video_fps, action_steps, state_dim, action_dim, None, {embodiment.name: identity(embodiment)})


def in_force(time, rate, count):
  """The last of `count` samples, at i / rate, that has begun by `time`; None after the last one's end."""
  index = [i for i in range(count + 1) if Fraction(i) / rate <= time][-1]
  return None if index == count else index


@pytest.mark.parametrize(("clip_fps", "fps"), [*itertools.product(RATES, RATES)])
@pytest.mark.parametrize("action_hz", [Fraction(10), Fraction(20), Fraction(50, 3)])
def test_frames_states_and_actions_are_those_in_force(clip_fps, fps, action_hz):
  counts = dict(state=31, action=29)
  labels = {name: np.tile(np.arange(count, dtype=np.float32)[:, None], (1, 3)) for name, count in counts.items()} | {
    f"{name}_mask": np.arange(count) % 7 != 3 for name, count in counts.items()
  }
  clip = make_clip(frames=23, video_fps=float(clip_fps), action_hz=float(action_hz), **labels)
  for start in (0, 1, 7, 20, 22):
    sample = window(frames=12, video_fps=float(fps), action_steps=9).sample(clip, start)
    begin = start / clip_fps
    expected = [in_force(begin + j / fps, clip_fps, 23) for j in range(12)]
    valid = [index for index in expected if index is not None]
    assert sample["length"] == len(valid)
    shown = valid + [22] * (12 - len(valid))
    np.testing.assert_array_equal(sample["video"][:, 0, 0, 0], shown)
    for j in range(12):
      index = in_force(begin + j / fps, action_hz, 31) if expected[j] is not None else None
      known = index is not None and index % 7 != 3
      assert sample["state_mask"][j].tolist() == [known] * 3
      assert sample["state"][j].tolist() == [index if known else 0] * 3
    for i in range(9):
      index = in_force(begin + i / action_hz, action_hz, 29)
      known = index is not None and index % 7 != 3
      assert sample["action_mask"][i].tolist() == [known] * 3
      assert sample["action"][i].tolist() == [index if known else 0] * 3
    assert (sample["fps"], sample["action_hz"]) == (np.float32(fps), np.float32(action_hz))


@pytest.mark.parametrize(("clip_fps", "fps"), [*itertools.product(RATES, RATES)])
@pytest.mark.parametrize("frames", [1, 5, 12])
def test_the_starts_are_those_that_fill_a_sample(clip_fps, fps, frames):
  clip = make_clip(frames=23, video_fps=float(clip_fps))
  filled = [start for start in range(23) if in_force(start / clip_fps + (frames - 1) / fps, clip_fps, 23) is not None]
  assert window(frames, float(fps)).starts(clip) == max(1, len(filled))
  assert filled == list(range(len(filled)))


def test_long_clips_do_not_lose_a_frame_to_rounding():
  index = np.arange(200_000)
  for rate in (30.0, 7.5, 50 / 3, 29.97):
    np.testing.assert_array_equal(sampling.in_force(index / rate, rate), index)


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_at_equal_rates_a_sample_is_the_clip_then_its_last_frame(clip_frames, frames, data):
  start = data.draw(st.integers(0, clip_frames - 1))
  clip = make_clip(50, frames=clip_frames)
  sample = window(frames, action_steps=frames).sample(clip, start)
  valid = min(frames, clip_frames - start)
  assert sample["length"] == valid
  np.testing.assert_array_equal(sample["video"][:valid], clip.cameras["front"][start : start + valid])
  assert (sample["video"][valid:] == clip.cameras["front"][-1]).all()
  np.testing.assert_array_equal(sample["state_mask"][:, 0], np.arange(frames) < valid)
  np.testing.assert_array_equal(sample["action_mask"][:, 0], np.arange(frames) < min(frames, clip_frames - 1 - start))
  np.testing.assert_array_equal(sample["state"][:valid], clip.state[start : start + valid])
  assert not sample["state"][valid:].any() and not sample["action"][~sample["action_mask"]].any()
  np.testing.assert_array_equal(sample["executed"], sample["action"])


def test_what_was_executed_goes_with_its_action():
  clip = make_clip(4)
  done = clip.action + np.random.default_rng(0).standard_normal(clip.action.shape).astype(np.float32)
  sample = window().sample(dataclasses.replace(clip, executed=done), 2)
  known = int(sample["action_mask"][:, 0].sum())
  assert known >= 2
  np.testing.assert_array_equal(sample["action"][:known], clip.action[2 : 2 + known])
  np.testing.assert_array_equal(sample["executed"][:known], done[2 : 2 + known])
  assert not sample["executed"][known:].any()


def test_a_narrow_body_is_padded_and_masked():
  sample = window(state_dim=7, action_dim=5).sample(make_clip(3), 0)
  assert sample["state_mask"].all(0).tolist() == [True] * 3 + [False] * 4
  assert sample["action_mask"].all(0).tolist() == [True] * 3 + [False] * 2
  assert not sample["state"][:, 3:].any() and not sample["action"][:, 3:].any()
  assert sample["embodiment"] == 0


def test_a_body_without_labels_is_masked_throughout():
  sample = window().sample(make_clip(state_dim=0, action_dim=0), 0)
  assert sample["state"].shape == (5, 3) and sample["action"].shape == (4, 3) and sample["embodiment"] == -1
  assert not sample["state_mask"].any() and not sample["action_mask"].any()
