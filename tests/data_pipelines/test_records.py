import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from data_pipelines import records
from kairos_jax.errors import KairosError
from tests.data_pipelines.conftest import make_clip


def assert_same_clip(expected, actual):
  for field in dataclasses.fields(expected):
    a, b = getattr(expected, field.name), getattr(actual, field.name)
    if field.name == "cameras":
      assert a.keys() == b.keys()
      for name in a:
        assert b[name].dtype == np.uint8
        np.testing.assert_array_equal(a[name], b[name])
    elif isinstance(a, np.ndarray):
      assert a.dtype == b.dtype
      np.testing.assert_array_equal(a, b)
    else:
      assert a == b and type(a) is type(b), field.name


@pytest.mark.parametrize("dims", [(3, 5), (0, 0), (14, 7)])
def test_round_trip_with_cameras_of_their_own_sizes_and_rates_of_their_own(dims):
  rng = np.random.default_rng(0)
  clip = make_clip(
    3,
    cameras={
      "wrist": rng.integers(0, 256, (9, 5, 7, 3), dtype=np.uint8),
      "head": rng.integers(0, 256, (9, 11, 3, 3), dtype=np.uint8),
    },
    state=rng.normal(size=(13, dims[0])).astype(np.float32),
    action=rng.normal(size=(17, dims[1])).astype(np.float32),
    state_mask=rng.random(13) < 0.5,
    action_mask=rng.random(17) < 0.5,
    executed=rng.normal(size=(17, dims[1])).astype(np.float32),
    video_fps=7.5,
    action_hz=50 / 3,
    caption="naïve 机器人",
    instruction="",
    paraphrases=("fais-le", "do it now"),
    provenance={"file": "episode_3.hdf5", "span": [0, 17.5], "nested": {"ok": None}},
  )
  assert_same_clip(clip, records.decode(records.encode(clip)))


def test_same_clip_same_bytes():
  assert records.encode(make_clip(1)) == records.encode(make_clip(1))
  assert records.encode(make_clip(1)) != records.encode(make_clip(2))


def test_a_view_of_a_larger_array_is_written_by_its_values():
  video = np.arange(9 * 8 * 8 * 6, dtype=np.uint32).astype(np.uint8).reshape(9, 8, 8, 6)[..., ::2]
  state = np.arange(27, dtype=np.float32).reshape(3, 9).T
  back = records.decode(records.encode(make_clip(cameras={"front": video}, state=state)))
  np.testing.assert_array_equal(back.cameras["front"], video)
  np.testing.assert_array_equal(back.state, state)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (dict(cameras={}), "at least one is required, or latents"),
    (dict(cameras={"a/b": np.zeros((9, 8, 8, 3), np.uint8)}), "without a slash"),
    (dict(cameras={"front": np.zeros((9, 8, 8), np.uint8)}), r"uint8 \[9, 8, 8\]"),
    (dict(cameras={"front": np.zeros((0, 8, 8, 3), np.uint8)}), "none of them 0"),
    (dict(cameras={"front": np.zeros((9, 8, 8, 3), np.float32)}), "is float32"),
    (
      dict(cameras={"a": np.zeros((9, 8, 8, 3), np.uint8), "b": np.zeros((8, 8, 8, 3), np.uint8)}),
      "one number is required",
    ),
    (dict(state=np.zeros(9, np.float32)), "state is float32"),
    (dict(state=np.full((9, 3), np.nan, np.float32)), "state holds NaN"),
    (dict(action=np.full((8, 3), np.inf, np.float32)), "action holds NaN or infinity"),
    (dict(action=np.zeros((8, 3))), "action is float64"),
    (dict(action_mask=np.ones(8, np.uint8)), "action_mask is uint8"),
    (dict(executed=np.zeros((7, 3), np.float32)), "executed is float32"),
    (dict(executed=np.full((8, 3), np.nan, np.float32)), "executed is float32"),
    (dict(action_mask=np.ones(9, bool)), r"bool \[8\] is required"),
    (dict(video_fps=0.0), "video_fps is 0.0"),
    (dict(action_hz=float("nan")), "action_hz is nan"),
    (dict(license=None), "license is None"),
    (dict(paraphrases=["a"]), "paraphrases"),
    (dict(provenance=[1]), "provenance"),
  ],
)
@pytest.mark.mistakes
def test_schema_violations_are_told_in_one_line(change, words):
  with pytest.raises(KairosError, match=words) as error:
    make_clip(**change)
  assert "\n" not in str(error.value)


def test_provenance_must_be_json_and_a_record_has_a_bound():
  with pytest.raises(KairosError, match="provenance is not JSON"):
    records.encode(make_clip(provenance={"when": float("nan")}))
  with pytest.raises(KairosError, match="provenance is not JSON"):
    records.encode(make_clip(provenance={"what": object()}))
  with pytest.raises(KairosError, match="too large for a record"):
    records.encode(make_clip(caption="x" * 2**20))


def _without(tensors, name):
  return {key: value for key, value in tensors.items() if key != name}


def _described(tensors, **changes):
  description = json.loads(tensors["description"].tobytes())
  description = {key: value for key, value in {**description, **changes}.items() if value is not ...}
  return {**tensors, "description": np.frombuffer(json.dumps(description).encode(), np.uint8)}


@pytest.mark.parametrize(
  ("damage", "words"),
  [
    (lambda t: _without(t, "action"), "'action'"),
    (lambda t: {**t, "reward": np.zeros(1)}, "'reward'"),
    (lambda t: _without(t, "camera/front"), "camera/front"),
    (lambda t: _without(t, "description"), "no description"),
    (lambda t: {**t, "description": np.array([255, 255], np.uint8)}, "not JSON"),
    (lambda t: {**t, "description": np.zeros(2, np.int32)}, "description is int32"),
    (lambda t: {**t, "description": np.frombuffer(b"[" * 100_000, np.uint8)}, "not JSON"),
    (lambda t: {**t, "description": np.frombuffer(b"[]", np.uint8)}, "not a JSON object"),
    (lambda t: _described(t, license=...), "'license'"),
    (lambda t: _described(t, reward=1), "'reward'"),
    (lambda t: _described(t, video_fps="10"), "video_fps is '10'"),
    (lambda t: _described(t, paraphrases="ab"), "not a list of texts"),
    (lambda t: _described(t, cameras={"front": 1}), "not a list of texts"),
    (lambda t: _described(t, version=3), "schema version 3, 2 is required"),
    (lambda t: {**t, "state": t["state"][:-1]}, r"state_mask is bool \[9\]"),
  ],
)
@pytest.mark.mistakes
def test_damaged_records_are_told_in_one_line(damage, words):
  record = save(damage(load(records.encode(make_clip()))))
  with pytest.raises(KairosError, match=words) as error:
    records.decode(record)
  assert "\n" not in str(error.value)


def test_a_record_of_version_1_is_refused_with_what_to_do():
  strings = {name: np.frombuffer(b"x", np.uint8) for name in ("caption", "instruction", "source", "embodiment")}
  arrays = dict(video=np.zeros((5, 8, 8, 3), np.uint8), fps=np.array(10.0), state=np.zeros((5, 3), np.float32))
  masks = dict(action=np.zeros((4, 3), np.float32), state_mask=np.ones(5, bool), action_mask=np.ones(4, bool))
  with pytest.raises(KairosError, match=r"version 1, 2 is required: build the dataset again.*`kairos data build`"):
    records.decode(save({**strings, **arrays, **masks}))


@pytest.mark.parametrize("record", [b"", b"not a record", records.encode(make_clip())[:-10]])
def test_bytes_that_are_no_record(record):
  with pytest.raises(KairosError, match="is not safetensors") as error:
    records.decode(record)
  assert "\n" not in str(error.value)


def test_a_record_beyond_the_bound_is_not_parsed(monkeypatch):
  record = records.encode(make_clip())
  monkeypatch.setattr(records, "MAX_BYTES", len(record) - 1)
  with pytest.raises(KairosError, match="too large"):
    records.decode(record)
