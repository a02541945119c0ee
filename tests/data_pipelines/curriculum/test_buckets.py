import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.curriculum.buckets import MAX_WASTE, SHORT_SIDE, Shapes, assign, frames_of, scaled
from data_pipelines.embodiments import filled
from data_pipelines.sampling import Window
from kairos_jax.errors import KairosError
from tests.data_pipelines.conftest import make_clip, make_embodiment


@given(
  st.lists(st.integers(1, 400), min_size=1, max_size=40),
  st.sets(st.integers(1, 241), min_size=2, max_size=6),
  st.floats(0.85, 1.0),
)
def test_no_clip_wastes_more_than_allowed_and_none_that_fits_is_left_out(frames, lengths, fill):
  lengths = sorted(lengths)
  for clip, length in zip(frames, assign(np.array(frames), lengths, fill), strict=True):
    wastes = {size: 1 - min(clip, size) / size * fill for size in lengths}
    fits = [size for size, waste in wastes.items() if waste <= MAX_WASTE + 1e-12]
    assert (length == 0) == (not fits)
    # Filled up as little as can be, or else cut as little as can be.
    whole = [size for size in fits if size >= clip]
    assert length == (min(whole) if whole else max(fits, default=0))


@given(st.integers(90, 2200), st.integers(90, 2200), st.sampled_from(["256P", "480P", "720P"]))
def test_a_picture_keeps_its_proportions_in_multiples_of_32(height, width, resolution):
  short = SHORT_SIDE[resolution]
  size = scaled((height, width), short)
  assert min(size) == short and size[0] % 32 == size[1] % 32 == 0
  assert filled(make_embodiment(), {"front": (height, width)}, size) >= 1 - 17 / 256


@pytest.mark.parametrize(
  ("size", "resolution", "expected"),
  [
    ((1080, 1920), "720P", (704, 1248)),
    ((1920, 1080), "480P", (864, 480)),
    ((480, 640), "256P", (256, 352)),
    ((64, 64), "256P", (256, 256)),
  ],
)
def test_known_sizes(size, resolution, expected):
  assert scaled(size, SHORT_SIDE[resolution]) == expected


@given(st.integers(1, 60), st.sampled_from([7.5, 10.0, 15.0, 50 / 3, 29.97]), st.sampled_from([5.0, 10.0, 16.0]))
def test_frames_are_those_that_a_sample_of_the_clip_has(frames, clip_fps, fps):
  clip = make_clip(frames=frames, video_fps=clip_fps, state_dim=0, action_dim=0)
  sample = Window(400, fps, 0, 1, 1, None, {}).sample(clip, 0)
  assert frames_of(np.array([frames / clip_fps]), fps)[0] == sample["length"]


@pytest.mark.mistakes
@pytest.mark.parametrize(
  ("shapes", "words"),
  [
    (dict(lengths={}), "frames and action_steps are {}"),
    (dict(lengths={5: -1}), "at least 0"),
    (dict(lengths={5: 1}, image_share=1.1), "image_share is 1.1"),
    (dict(lengths={5: 1}, size="300P"), "resolution is '300P': one of 64P, 256P"),
  ],
)
def test_shapes_that_are_none(shapes, words):
  with pytest.raises((KairosError, TypeError), match=words):
    Shapes(**shapes)
