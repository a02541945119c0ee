"""The reference's pickled requests: read as arrays, and whatever else a pickle holds is refused."""

import io
import json
import pickle
import pickletools
import tracemalloc
import urllib.error
import urllib.request

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kairos_jax.errors import KairosError
from kairos_jax.serving import legacy, tensor_pickle
from kairos_jax.serving.engine import Engine
from kairos_jax.serving.observation import Reader, Request
from kairos_jax.serving.tensor_pickle import UnsafePickle, loads
from tests import tiny
from tests.serving.conftest import STEPS

# pickle.dumps({"robot_state": t, "input_image": i, "prompt": "x"}, protocol) with torch 2.9: t is float32 arange(6) / 4
# of shape [2, 3], transposed; i is a PIL image of the bytes 0 to 17.
RECORDED = {
  2: bytes.fromhex(
    "80027d710028580b000000726f626f745f7374617465710163746f7263682e5f7574696c730a5f72656275696c645f74656e736f725f7632"
    "0a71022863746f7263682e73746f726167650a5f6c6f61645f66726f6d5f62797465730a7103635f636f646563730a656e636f64650a7104"
    "5823010000c28002c28a0a6cc3bcc29c46c3b9206ac2a850192ec280024dc3a9032ec280027d710028581000000070726f746f636f6c5f76"
    "657273696f6e71014dc3a903580d0000006c6974746c655f656e6469616e7102c288580a000000747970655f73697a657371037d71042858"
    "0500000073686f727471054b025803000000696e7471064b0458040000006c6f6e6771074b0475752ec2800228580700000073746f726167"
    "65710063746f7263680a466c6f617453746f726167650a7101580e0000003934363934363137343731373132710258030000006370757103"
    "4b064e747104512ec280025d7100580e00000039343639343631373437313731327101612e0600000000000000000000000000c2803e0000"
    "003f0000403f0000c2803f0000c2a03f710558060000006c6174696e31710686710752710885710952710a4b004b034b0286710b4b014b03"
    "86710c8963636f6c6c656374696f6e730a4f726465726564446963740a710d2952710e74710f527110580b000000696e7075745f696d6167"
    "6571116350494c2e496d6167650a496d6167650a7112298171135d7114287d7115580300000052474271164b034b028671174e6804581200"
    "0000000102030405060708090a0b0c0d0e0f10117118680686711952711a6562580600000070726f6d7074711b580100000078711c752e"
  ),
  4: bytes.fromhex(
    "8004950d020000000000007d94288c0b726f626f745f7374617465948c0c746f7263682e5f7574696c73948c125f72656275696c645f7465"
    "6e736f725f7632949394288c0d746f7263682e73746f72616765948c105f6c6f61645f66726f6d5f6279746573949394421301000080028a"
    "0a6cfc9c46f9206aa850192e80024de9032e80027d710028581000000070726f746f636f6c5f76657273696f6e71014de903580d0000006c"
    "6974746c655f656e6469616e710288580a000000747970655f73697a657371037d710428580500000073686f727471054b02580300000069"
    "6e7471064b0458040000006c6f6e6771074b0475752e800228580700000073746f72616765710063746f7263680a466c6f617453746f7261"
    "67650a7101580e00000039343639343631373437313731327102580300000063707571034b064e747104512e80025d7100580e0000003934"
    "3639343631373437313731327101612e0600000000000000000000000000803e0000003f0000403f0000803f0000a03f94859452944b004b"
    "034b0286944b014b038694898c0b636f6c6c656374696f6e73948c0b4f72646572656444696374949394295294749452948c0b696e707574"
    "5f696d616765948c0950494c2e496d616765948c05496d6167659493942981945d94287d948c03524742944b034b0286944e431200010203"
    "0405060708090a0b0c0d0e0f10119465628c0670726f6d7074948c017894752e"
  ),
}


@pytest.mark.parametrize(
  "data",
  [
    b"\x80\x02Nr\x00\x87\x93\x03.",  # LONG_BINPUT 60,000,000
    b"Np60000000\n.",
    b"\x80\x05\x96\x00\x65\xcd\x1d\x00\x00\x00\x00abc.",  # BYTEARRAY8 of 500,000,000 bytes
  ],
)
def test_a_small_pickle_takes_no_large_memory(data):
  tracemalloc.start()
  with pytest.raises(UnsafePickle):
    loads(data)
  assert tracemalloc.get_traced_memory()[1] < 1 << 20
  tracemalloc.stop()


@pytest.mark.parametrize("protocol", RECORDED)
def test_tensors_and_images_are_read_without_their_libraries(protocol):
  got = loads(RECORDED[protocol])
  np.testing.assert_array_equal(got["robot_state"], np.arange(6, dtype=np.float32).reshape(2, 3).T / 4)
  np.testing.assert_array_equal(tensor_pickle.picture(got["input_image"]), np.arange(18).reshape(2, 3, 3))
  assert got["prompt"] == "x"


class Call:
  def __init__(self, function, *args, state=None):
    self.reduced = (function, args) if state is None else (function, args, state)

  def __reduce__(self):
    return self.reduced


def changing(what):
  """A pickle that loads a name and sets attributes of it."""
  module, name = what
  return (
    b"\x80\x02c" + module + b"\n" + name + b"\n}X\x0c\x00\x00\x00__defaults__K\x01s}X\x04\x00\x00\x00evilK\x01s\x86b."
  )


@pytest.mark.parametrize(
  "data",
  [
    b"",
    b"garbage",
    pickle.dumps(Call(eval, "1 + 1")),
    pickle.dumps(Call(pickle.loads, b"N.")),
    pickle.dumps({"a": [Call(print, "x")]}),
    pickle.dumps(np.zeros(3)),
    pickle.dumps(KairosError),
    RECORDED[2][:-40],
    RECORDED[4].replace(b"FloatStorage", b"EvilyStorage"),
    RECORDED[4].replace(b"PIL", b"PIX"),
    changing((b"_codecs", b"encode")),
    changing((b"torch._utils", b"_rebuild_tensor_v2")),
    changing((b"PIL.Image", b"Image")),
    changing((b"collections", b"OrderedDict")),
    b"\x80\x02" + b"(" * 1000 + b".",
    b"\x80\x02U\x01aQ.",
  ],
)
def test_anything_else_is_refused(data):
  with pytest.raises(UnsafePickle) as caught:
    loads(data)
  assert len(str(caught.value)) < 200


def test_a_tensor_cannot_be_larger_than_its_bytes():
  """Neither by strides of zero, nor by reaching out of its storage."""
  for size, stride, offset in ((10**9, 0, 0), (7, 1, 0), (2, 1, 5), (2, -1, 3), (1, 1, -1)):
    with pytest.raises(UnsafePickle, match="beyond its numbers"):
      tensor_pickle._tensor([np.dtype("<f4"), np.zeros(6, np.float32)], offset, (size,), (stride,))


@given(st.integers(0, len(RECORDED[4]) - 1), st.binary(min_size=1, max_size=3))
@settings(max_examples=300)
def test_a_damaged_pickle_is_read_or_is_one_error(place, wrong):
  data = RECORDED[4][:place] + wrong + RECORDED[4][place + len(wrong) :]
  try:
    loads(data)
  except UnsafePickle:
    pass


class _Torch(pickle.Unpickler):
  def find_class(self, module, name):
    assert (module, name) == ("torch", "tensor")
    return np.asarray


def test_the_answer_is_a_tensor_of_torch():
  actions = np.random.default_rng(0).standard_normal((1, 4, 3)).astype(np.float32)
  data = tensor_pickle.answer(actions)
  pickletools.dis(data, out=io.StringIO())
  got = _Torch(io.BytesIO(data)).load()
  assert got["success"] is True and got["output"][0] is None
  np.testing.assert_array_equal(np.float32(got["output"][1]), actions)


def asked(**changes):
  fields = dict(
    robot_state=None, input_image=None, prompt="push", seed=5, robot_action_horizon=4, num_inference_steps=9
  )
  return {**fields, "save_path": "/tmp/never.mp4", "robot_state_mask": None, "wam_infer_mode": "action", **changes}


def image():
  one = tensor_pickle._Image()
  one.array = tiny.frames(1, seed=8)[0]
  return one


@pytest.mark.slow
def test_a_request_is_answered_over_http_as_in_process(start, model, monkeypatch):
  """The image and the state are put in after reading, because PIL and torch are what a client pickles with."""
  state = np.float32([[0.5, -1, 2]])
  monkeypatch.setattr(legacy.tensor_pickle, "loads", lambda data: with_state(loads(data)))
  extra: dict = {}
  with_state = lambda fields: {**fields, "robot_state": state, **extra} if isinstance(fields, dict) else fields  # noqa: E731
  engine = Engine(model, capacity=1, batch=1, steps=STEPS)
  want = engine.infer({"a": Request(image().array[None], state[0], "push", seed=5)})["a"]

  def post(fields, path="/infer"):
    call = urllib.request.Request(f"http://127.0.0.1:{running.serving.legacy_port}{path}", pickle.dumps(fields))
    try:
      with urllib.request.urlopen(call, timeout=60) as answer:
        return answer.status, answer.read()
    except urllib.error.HTTPError as error:
      return error.code, json.loads(error.read())["detail"]

  with start(legacy_port=0, max_bytes=5_000) as running:
    for path in ("health", "load_engine"):
      with urllib.request.urlopen(f"http://127.0.0.1:{running.serving.legacy_port}/{path}", timeout=60) as told:
        assert json.loads(told.read())["workers_loaded"]
    for one in (image(), [image()]):
      extra["input_image"] = one
      status, body = post(asked())
      got = _Torch(io.BytesIO(body)).load()["output"][1]
      assert status == 200
      np.testing.assert_allclose(got, want.actions[None], atol=1e-5)
    assert post(asked(robot_action_horizon=32)) == (400, "robot_action_horizon is 32; this model gives 4")
    assert post(asked(wam_infer_mode="joint"))[0] == 400
    assert post([1]) == (400, "a request is a dict")
    assert post(asked(prompt="x" * 6_000)) == (413, "at most 5000 bytes")
    assert post(Call(eval, "1"))[1].startswith("the pickle names builtins.eval")
    assert post(asked(), path="/other")[0] == 404
    assert running.serving._dispatcher._engine.sessions == 0


def test_an_image_of_another_size_is_scaled(model):
  large = tensor_pickle._Image()
  large.array = tiny.frames(1, size=40)[0]
  request = legacy.read(asked(input_image=large, robot_state=np.zeros(3)), Reader(model, None), 4)
  assert request.frames.shape == (1, 16, 16, 3) and request.prompt == "push" and request.seed == 5
