"""Bytes of all kinds at the readers of requests: each is a request, or is refused in one line; nothing else happens."""

import contextlib
import os
import pickle
import time
import tracemalloc

import hypothesis
import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kairos_jax.errors import KairosError
from kairos_jax.serving.client import WireError, pack, unpack
from kairos_jax.serving.observation import Reader, Request
from kairos_jax.serving.tensor_pickle import UnsafePickle, loads
from tests.serving.conftest import observation

SECONDS = float(os.environ.get("KAIROS_FUZZ_SECONDS", "30"))
MIB = 1 << 20

KEYS = [
  *("images", "observation/front", "front", "state", "observation/state", "prompt", "seed", "deadline_ms", "endpoint"),
  *("session_id", "request_id", "previous", "delay", "__ndarray__", "__npgeneric__", "nd", "type", "kind", "data"),
  *("dtype", "shape"),
]
DTYPES = ["|u1", "<f4", ">f8", "<i8", "|b1", "<U3", "|S4", "|O", "<c8", "|V4", "<M8[s]", "<f4,<f4", "<U999999", "", "x"]
SIDES = st.one_of(st.integers(-2, 5), st.sampled_from([2**31, 2**62, 2**64 - 1, -(2**63)]))
PLAIN = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(-(2**63), 2**64 - 1),
  st.floats(width=32),
  st.text(max_size=8),
  st.binary(max_size=24),
  st.sampled_from([*KEYS, *DTYPES]),
  st.sampled_from([2**64 - 1, float("nan"), float("inf"), "x" * 3000]),
)
ARRAYS = st.fixed_dictionaries(
  {},
  optional={
    "__ndarray__": PLAIN,
    "__npgeneric__": PLAIN,
    "nd": PLAIN,
    "kind": st.sampled_from([b"", b"O", b"V", "", None]),
    "type": st.sampled_from(DTYPES),
    "dtype": st.one_of(st.sampled_from(DTYPES), PLAIN),
    "shape": st.one_of(st.lists(SIDES, max_size=9), PLAIN),
    "data": st.one_of(st.binary(max_size=64), PLAIN),
  },
).map(lambda some: {key.encode(): value for key, value in some.items()} if len(some) % 2 else some)
VALUES = st.recursive(
  st.one_of(PLAIN, ARRAYS),
  lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)),
  max_leaves=12,
)
MESSAGES = st.one_of(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8), VALUES)
GOOD = [
  pack(observation(0)),
  pack(observation(1, frames=3, seed=4, deadline_ms=100, session_id="a", request_id="b")),
  pack(observation(2, previous=np.zeros((2, 3), np.float32), delay=1)),
  pack({"observation/front": observation(3)["images"]["front"], "observation/state": [0.0, 1.0, 2.0]}),
]
CHANGES = st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from("sdi"), st.binary(min_size=1, max_size=4)))


def changed(good: bytes, changes, end: int) -> bytes:
  """A message with some bytes set, deleted or inserted, cut at its end; most changes hit its first part."""
  bad = bytearray(good)
  for place, kind, some in changes:
    place %= max(1, min(len(bad), 200 if place % 4 else len(bad)))
    bad[place : place + (0 if kind == "i" else len(some))] = b"" if kind == "d" else some
  return bytes(bad[: len(bad) - end % 64])


DAMAGED = st.builds(changed, st.sampled_from(GOOD), CHANGES, st.integers(0, 1000).map(lambda n: max(0, n - 800)))
WIRE = st.one_of(MESSAGES.map(msgpack.packb), DAMAGED, st.binary(max_size=200))


@pytest.fixture(scope="module")
def read(model):
  readers = [Reader(model, None, chunking=chunking) for chunking in (False, True)]

  def check(data: bytes) -> None:
    for reader in readers:
      try:
        message = unpack(data)
        request = reader.read(message) if isinstance(message, dict) else None
      except (WireError, KairosError) as error:
        assert len(str(error)) < 1000 and "Traceback" not in str(error)
        continue
      if request is not None:
        assert isinstance(request, Request) and np.isfinite(request.state).all() and request.frames.dtype == np.uint8

  return check


@given(data=WIRE)
@example(data=msgpack.packb({b"dtype": "<f4,<f4"}))
@settings(max_examples=150, suppress_health_check=list(hypothesis.HealthCheck))
def test_no_bytes_do_more_than_be_refused(read, data):
  read(data)


def read_pickle(data: bytes) -> None:
  with contextlib.suppress(UnsafePickle):
    loads(data)


PICKLES = st.builds(
  lambda value, protocol, changes, end: changed(pickle.dumps(value, protocol), changes, end),
  st.recursive(PLAIN, lambda x: st.lists(x, max_size=3)),
  st.integers(0, 5),
  CHANGES,
  st.integers(0, 3),
)


@given(data=st.one_of(PICKLES, st.binary(max_size=100)))
@settings(max_examples=150, suppress_health_check=list(hypothesis.HealthCheck))
def test_no_pickle_does_more_than_be_refused(data):
  read_pickle(data)


@pytest.mark.slow
def test_fuzzed_for_long(read):
  """For KAIROS_FUZZ_SECONDS, each round of another seed; no message needs more than a few MiB."""
  end, rounds, most = time.monotonic() + SECONDS, 0, {"message": 0, "pickle": 0}
  while time.monotonic() < end:

    @hypothesis.seed(rounds)
    @settings(max_examples=500, database=None, suppress_health_check=list(hypothesis.HealthCheck))
    @given(data=WIRE, pickled=PICKLES)
    def fuzz(data, pickled):
      for kind, check, some in (("message", read, data), ("pickle", read_pickle, pickled)):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        check(some)
        most[kind] = max(most[kind], tracemalloc.get_traced_memory()[1] - before)
        assert most[kind] < 8 * MIB

    tracemalloc.start()
    fuzz()
    tracemalloc.stop()
    rounds += 1
  print(f"{rounds} rounds of 500 messages and 500 pickles; most bytes for one: {most}")
