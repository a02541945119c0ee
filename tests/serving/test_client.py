"""Messages: openpi's bytes, the other spellings, and that no bytes do more than fail."""

import subprocess
import sys

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kairos_jax.serving import client
from kairos_jax.serving.client import WireError, pack, unpack

# What openpi_client.msgpack_numpy.packb 0.1.2 makes of MESSAGE.
RECORDED = bytes.fromhex(
  "84a5696d61676584c40b5f5f6e6461727261795f5fc3c40464617461c406000102030405c4056474797065a37c7531c4057368617065930102"
  "03a5737461746584c40b5f5f6e6461727261795f5fc3c40464617461c4080000003f0000c0bfc4056474797065a33c6634c405736861706591"
  "02a670726f6d7074ab7075736820616e7369c3b6a47369676e83c40d5f5f6e7067656e657269635f5fc3c40464617461fdc4056474797065a3"
  "3c6932"
)
MESSAGE = {
  "image": np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
  "state": np.array([0.5, -1.5], np.float32),
  "prompt": "push ansiö",
  "sign": np.int16(-3),
}


def equal(got, want):
  assert got.dtype == want.dtype and got.shape == want.shape
  np.testing.assert_array_equal(got, want)


def test_the_bytes_are_openpis():
  assert pack(MESSAGE) == RECORDED
  back = unpack(RECORDED)
  assert list(back) == list(MESSAGE) and back["prompt"] == MESSAGE["prompt"]
  for name in ("image", "state", "sign"):
    equal(back[name], MESSAGE[name])


KINDS = ["<f4", ">f8", "|u1", "<i8", "|b1", "<f2", "<U3"]


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 1, 5)])
def test_every_spelling_of_an_array_is_read(dtype, shape):
  array = np.random.default_rng(3).integers(0, 2, shape).astype(dtype)
  openpi = {"__ndarray__": True, "data": array.tobytes(), "dtype": dtype, "shape": list(shape)}
  package = {"nd": True, "type": dtype, "kind": b"", "shape": list(shape), "data": array.tobytes()}
  for spelled in (openpi, package):
    bytes_keys = {key.encode(): value for key, value in spelled.items()}
    equal(unpack(msgpack.packb(spelled)), array)
    equal(unpack(msgpack.packb(bytes_keys)), array)
  equal(unpack(pack(array)), array)


def test_scalars_are_read():
  for scalar in (np.float32(0.1), np.int16(-3), np.bool_(True), np.str_("ab")):
    openpi = {"__npgeneric__": True, "data": scalar.item(), "dtype": scalar.dtype.str}
    package = {b"nd": False, b"type": scalar.dtype.str, b"data": scalar.tobytes()}
    for spelled in (openpi, package):
      got = unpack(msgpack.packb(spelled))
      assert got == scalar and got.dtype == scalar.dtype


@pytest.mark.parametrize("value", [np.array([None]), np.array([1j]), np.zeros(2, "i4,f4"), np.void(b"x"), object()])
def test_what_is_no_plain_value_is_not_sent(value):
  with pytest.raises(WireError):
    pack({"x": value})


def array(**changes):
  return msgpack.packb({"__ndarray__": True, "data": b"\0" * 8, "dtype": "<f4", "shape": [2], **changes})


@pytest.mark.parametrize(
  "data",
  [
    b"",
    b"\xc1",
    RECORDED[:-1],
    RECORDED + b"\0",
    array(dtype="|O"),
    array(dtype="<c8"),
    array(dtype="|V8"),
    array(dtype="i4,f4"),
    array(dtype="(2,)f4"),
    array(dtype=4),
    array(shape=[3]),
    array(shape=[-2]),
    array(shape=[2**62, 2**62]),
    array(shape=[True, 2]),
    array(shape=[1] * 9 + [2]),
    array(shape="2"),
    array(data="12345678"),
    array(data=None),
    msgpack.packb({"__npgeneric__": True, "data": "x", "dtype": "<f4"}),
    msgpack.packb({"__npgeneric__": True, "data": 2**40, "dtype": "<i2"}),
    msgpack.packb({"nd": True, "type": "|O", "kind": b"O", "shape": [1], "data": b"\x80\x04N."}),
    msgpack.packb({"__npgeneric__": True, "data": [1.0, 2.0], "dtype": "<f4"}),
    msgpack.packb({1: 2}),
    msgpack.packb(msgpack.ExtType(5, b"x")),
    b"\x91" * 3000 + b"\xc0",
    msgpack.packb([[]] * 60_000),
    b"\xdd\xff\xff\xff\xff",
  ],
)
def test_what_is_no_message_is_one_error(data):
  with pytest.raises(WireError) as caught:
    unpack(data)
  assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def attempt(data):
  try:
    unpack(data)
  except WireError:
    pass


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_any_bytes_are_a_message_or_one_error(data):
  attempt(data)


KEYS = [
  k
  for name in ("__ndarray__", "__npgeneric__", "nd", "data", "dtype", "type", "kind", "shape")
  for k in (name, name.encode())
]
VALUES = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(-(2**63), 2**64 - 1),
  st.floats(),
  st.binary(max_size=16),
  st.text(max_size=4),
  st.sampled_from(KINDS + ["|O", "<c8", "|V4", "M8[s]"]),
  st.lists(st.integers(-2, 9), max_size=4),
)
MARKED = st.dictionaries(st.sampled_from(KEYS), st.recursive(VALUES, lambda x: st.lists(x, max_size=3), max_leaves=5))


@given(MARKED)
@settings(max_examples=300)
def test_any_map_with_the_markers_of_an_array_is_a_message_or_one_error(fields):
  attempt(msgpack.packb(fields))


@given(st.integers(0, len(RECORDED) - 1), st.binary(min_size=1, max_size=4))
@settings(max_examples=300)
def test_a_damaged_message_is_a_message_or_one_error(place, wrong):
  attempt(RECORDED[:place] + wrong + RECORDED[place + len(wrong) :])


def test_the_client_works_as_one_file_with_nothing_of_ours(tmp_path):
  (tmp_path / "robot.py").write_text(open(client.__file__).read())
  code = (
    "import sys, robot; ours = [m for m in sys.modules if m.split('.')[0] in ('jax', 'kairos_jax', 'flax', 'absl')]; "
    "assert not ours, ours; assert robot.unpack(robot.pack({'a': 1})) == {'a': 1}"
  )
  subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
