import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load, save

from data_pipelines import records
from kairos_jax.errors import KairosError
from tests.data_pipelines.conftest import make_clip


@pytest.mark.parametrize("dims", [(3, 3), (0, 0), (14, 7)])
def test_round_trip(dims):
  clip = make_clip(3, state_dim=dims[0], action_dim=dims[1], caption="naïve 机器人", instruction="")
  back = records.decode(records.encode(clip))
  for field in dataclasses.fields(clip):
    expected, actual = getattr(clip, field.name), getattr(back, field.name)
    if isinstance(expected, np.ndarray):
      assert actual.dtype == expected.dtype
      np.testing.assert_array_equal(actual, expected)
    else:
      assert actual == expected and type(actual) is type(expected)


def test_same_clip_same_bytes():
  assert records.encode(make_clip(1)) == records.encode(make_clip(1))
  assert records.encode(make_clip(1)) != records.encode(make_clip(2))


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (dict(video=np.zeros((9, 8, 8), np.uint8)), "video has shape"),
    (dict(video=np.zeros((0, 8, 8, 3), np.uint8)), "video has shape"),
    (dict(video=np.zeros((9, 8, 8, 3), np.float32)), "video is float32"),
    (dict(action=np.zeros((9, 3), np.float32)), r"float32 \[8, 3\] is required"),
    (dict(state=np.zeros(9, np.float32)), "state is float32"),
    (dict(state=np.full((9, 3), np.nan, np.float32)), "state holds NaN"),
    (dict(action_mask=np.ones(8, np.uint8)), "action_mask is uint8"),
    (dict(fps=0.0), "fps is 0.0"),
  ],
)
def test_schema_violations_are_told_in_one_line(change, words):
  with pytest.raises(KairosError, match=words) as error:
    make_clip(**change)
  assert "\n" not in str(error.value)


def _without(tensors, name):
  return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
  ("damage", "words"),
  [
    (lambda tensors: _without(tensors, "action"), "'action'"),
    (lambda tensors: {**tensors, "reward": np.zeros(1)}, "'reward'"),
    (lambda tensors: {**tensors, "fps": np.zeros(2)}, "fps has shape"),
    (lambda tensors: {**tensors, "caption": np.array([255, 255], np.uint8)}, "caption is not UTF-8"),
    (lambda tensors: {**tensors, "caption": np.zeros(2, np.int32)}, "caption is int32"),
    (lambda tensors: {**tensors, "state": tensors["state"][:-1]}, "state is float32"),
  ],
)
def test_damaged_records_are_told_in_one_line(damage, words):
  record = save(damage(load(records.encode(make_clip()))))
  with pytest.raises(KairosError, match=words) as error:
    records.decode(record)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("record", [b"", b"not a record", records.encode(make_clip())[:-10]])
def test_bytes_that_are_no_record(record):
  with pytest.raises(KairosError, match="is not safetensors") as error:
    records.decode(record)
  assert "\n" not in str(error.value)
