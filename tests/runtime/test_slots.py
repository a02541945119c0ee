"""Slots: any interleaving of what streams do equals each stream alone, and nothing is compiled again."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kairos_jax import timing
from kairos_jax.errors import KairosError
from kairos_jax.runtime import Slots, WorldModel
from kairos_jax.runtime import stream as stream_lib
from tests import tiny

CAPACITY, TEXTS = 4, ("push", "pull the red one", "", "wait")


@pytest.fixture(scope="module")
def model(tiny_saved):
  return WorldModel(tiny_saved)


@pytest.fixture(scope="module")
def fresh(model):
  """Streams of one, two and six latents' history: the first two leave caches unfilled, the last is moved to where it
  would be far beyond position 1024."""
  streams = [model.prefill(tiny.frames(n, seed=n), text) for n, text in zip((1, 5, 1, 21), TEXTS, strict=True)]
  far = streams[3].memory.replace(position=jnp.full(1, 70_001, jnp.int32))
  return [*streams[:3], dataclasses.replace(streams[3], memory=far)]


@pytest.fixture(scope="module")
def slots_for(model):
  """One pool for most tests, emptied: what it has compiled stays, and so does what others left in its buffers."""
  slots = Slots(model, CAPACITY)

  def empty():
    if slots.occupied:
      slots.drop(sorted(slots.occupied))
    return slots

  return empty


def close(got, want):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)


subsets = st.lists(st.integers(0, CAPACITY - 1), min_size=1, max_size=CAPACITY, unique=True)
operations = st.one_of(
  st.tuples(st.just("insert"), st.integers(0, CAPACITY - 1), st.integers(0, len(TEXTS) - 1)),
  st.tuples(st.just("drop"), st.integers(0, CAPACITY - 1), st.none()),
  st.tuples(st.just("fork"), st.integers(0, CAPACITY - 1), st.integers(0, CAPACITY - 1)),
  st.tuples(st.sampled_from(["reset", "extend", "act", "step", "imagine"]), subsets, st.integers(0, 2**63)),
)


def play(model, slots, alone, fresh, operation):
  """Does one thing to the slots and to the streams that live alone; what they answer must agree."""
  kind, where, what = operation
  if kind == "insert":
    slots.insert(where, fresh[what])
    alone[where] = TEXTS[what], fresh[what]
  elif kind in ("drop", "fork"):
    if where in alone and kind == "drop":
      slots.drop([where])
      del alone[where]
    elif where in alone:
      slots.fork(where, what)
      alone[what] = alone[where]
  elif there := [slot for slot in where if slot in alone]:
    rng = np.random.default_rng(what)
    seeds = [int(seed) for seed in rng.integers(2**63, size=len(there))]
    if kind in ("reset", "extend"):
      frames = np.stack([tiny.frames(1 if kind == "reset" else 4, seed=seed % 2**32) for seed in seeds])
      getattr(slots, kind)(there, frames)
      for slot, new in zip(there, frames, strict=True):
        text, stream = alone[slot]
        alone[slot] = text, model.prefill(new, text) if kind == "reset" else model.extend(stream, new)
    elif kind == "act":
      states = rng.standard_normal((len(there), 3)).astype(np.float32)
      got = slots.act(there, states, seeds=seeds, steps=2)
      for slot, state, seed, actions in zip(there, states, seeds, got, strict=True):
        close(actions, model.act(alone[slot][1], state, seed=[seed], steps=2))
    elif kind == "step":
      states = rng.standard_normal((len(there), 3)).astype(np.float32)
      new = [tiny.frames(4, seed=seed % 2**32) if i == 0 or seed % 2 else None for i, seed in enumerate(seeds)]
      got = slots.step(there, new, states, seeds=seeds, steps=2)
      for slot, frames, state, seed, actions in zip(there, new, states, seeds, got, strict=True):
        text, stream = alone[slot]
        alone[slot] = text, stream if frames is None else model.extend(stream, frames)
        close(actions, model.act(alone[slot][1], state, seed=[seed], steps=2))
    else:
      latents = slots.imagine_latents(there, 2, seeds=seeds, steps=2)
      pixels = slots.imagine(there, 8, seeds=seeds, steps=2)
      for slot, seed, *got in zip(there, seeds, latents, pixels, strict=True):
        want = model.imagine_latents(alone[slot][1], 2, seed=[seed], steps=2)
        close(got[0], want[0])
        want = model.decode(alone[slot][1], want)[0][0]
        np.testing.assert_allclose(got[1].astype(int), want.astype(int), atol=1)  # a rounding may fall the other way


@settings(max_examples=12, deadline=None)
@given(st.lists(operations, min_size=1, max_size=14))
def test_any_interleaving_equals_each_stream_alone(model, fresh, slots_for, interleaving):
  slots, alone = slots_for(), {}
  for operation in [("insert", 0, 3), ("insert", 2, 0), *interleaving]:
    play(model, slots, alone, fresh, operation)
  assert slots.occupied == set(alone)
  for slot, (_, stream) in alone.items():
    close(slots.stream(slot), stream)


@contextlib.contextmanager
def compilations():
  """Counts what XLA compiles meanwhile."""
  counted = []

  def listen(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration":
      counted.append(duration)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield counted
  jax.monitoring.unregister_event_duration_listener(listen)


def some_operations(slots, fresh, rng, count):
  """Random operations that are all possible; the slots alone, so that many are quick."""
  for _ in range(count):
    kind = rng.choice(["insert", "drop", "fork", "reset", "extend", "act", "step", "imagine"])
    there = sorted(slots.occupied)
    some = [int(slot) for slot in rng.permutation(there)[: rng.integers(1, len(there) + 1)]] if there else []
    if kind == "insert" or not there:
      slots.insert(int(rng.integers(CAPACITY)), fresh[rng.integers(len(fresh))])
    elif kind == "drop":
      slots.drop(some)
    elif kind == "fork":
      slots.fork(some[0], int(rng.integers(CAPACITY)))
    elif kind == "reset":
      slots.reset(some, np.zeros((len(some), 1, tiny.SIZE, tiny.SIZE, 3), np.uint8))
    elif kind == "extend":
      slots.extend(some, np.zeros((len(some), 4, tiny.SIZE, tiny.SIZE, 3), np.uint8))
    elif kind == "act":
      slots.act(some, np.zeros((len(some), 3)), seeds=some, steps=2)
    elif kind == "step":
      new = [np.zeros((4, tiny.SIZE, tiny.SIZE, 3), np.uint8), *[None] * (len(some) - 1)]
      slots.step(some, new, np.zeros((len(some), 3)), seeds=some, steps=2)
    else:
      slots.imagine(some, 8, seeds=some, steps=2)


def test_a_thousand_operations_compile_nothing_after_the_first_of_each_size(fresh, slots_for):
  slots, rng = slots_for(), np.random.default_rng(0)
  for slot in range(CAPACITY):
    slots.insert(slot, fresh[slot])
  for size in (1, 2, 4):
    there = list(range(size))
    slots.reset(there, np.zeros((size, 1, tiny.SIZE, tiny.SIZE, 3), np.uint8))
    slots.extend(there, np.zeros((size, 4, tiny.SIZE, tiny.SIZE, 3), np.uint8))
    slots.act(there, np.zeros((size, 3)), seeds=there, steps=2)
    slots.step(there, [tiny.frames(4)] * size, np.zeros((size, 3)), seeds=there, steps=2)
    slots.imagine(there, 8, seeds=there, steps=2)
  slots.fork(0, 1)
  with compilations() as counted:
    jax.jit(lambda x: x + 1)(np.float32(len(fresh)))
  assert len(counted) == 1  # it counts
  with compilations() as counted:
    some_operations(slots, fresh, rng, 1000)
  assert not counted


def test_with_a_smallest_batch_there_is_one_program_and_the_same_answers(model, fresh, slots_for):
  usual, padded = slots_for(), Slots(model, CAPACITY, smallest=CAPACITY)
  for slots in (usual, padded):
    for slot in range(CAPACITY):
      slots.insert(slot, fresh[slot])
  frames, states = np.stack([tiny.frames(4, seed=i) for i in range(3)]), np.full((3, 3), 0.3, np.float32)
  for some in ([3], [2, 0], [1, 3, 2]):
    answers = []
    for slots in (usual, padded):
      slots.extend(some, frames[: len(some)])
      answers.append(slots.act(some, states[: len(some)], seeds=some, steps=2))
    close(*answers)
  assert padded._extend._cache_size() == padded._act._cache_size() == 1


def test_buffers_are_updated_in_place(fresh, slots_for):
  slots = slots_for()
  slots.insert(1, fresh[0])
  pool = slots._pool
  slots.extend([1], tiny.frames(4)[None])
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(pool.memory))
  pool = slots._pool
  slots.step([1], [tiny.frames(4)], np.zeros((1, 3), np.float32), seeds=[1], steps=2)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(pool.memory))
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(fresh[0]))


def test_a_step_is_one_program_without_the_host(model, fresh, slots_for):
  """Frames to actions: encoder, tower and all denoising steps, the pool's buffers donated, nothing called back."""
  slots = slots_for()
  slots.insert(0, fresh[0])
  rows = slots._decision([0], np.zeros((1, 3)), [1], 2, model.robot(None), None, ())
  index, *rows = slots._bucket([0], np.ones(1, bool), tiny.frames(4)[None], *rows)
  compiled = slots._step.lower(model.params, slots._pool, index, *rows, steps=2).compile()
  pool = sum(leaf.nbytes for leaf in jax.tree.leaves(slots._pool))
  assert compiled.memory_analysis().alias_size_in_bytes >= 0.9 * pool
  assert not any(word in compiled.as_text() for word in ("callback", "outfeed", "infeed", "host_transfer"))


def test_what_cannot_be_is_refused_in_one_line_and_changes_nothing(model, fresh, slots_for):
  slots = slots_for()
  slots.insert(2, fresh[0])
  before = slots.stream(2)
  two = stream_lib.take(fresh[0], jnp.zeros(2, jnp.int32))
  wide = dataclasses.replace(fresh[0], shape=(2, 4))
  context = dataclasses.replace(fresh[0].context, tokens=fresh[0].context.tokens[:, :5])
  short = dataclasses.replace(fresh[0], context=context)
  frames = np.zeros((1, 4, tiny.SIZE, tiny.SIZE, 3), np.uint8)
  for run, says in {
    lambda: slots.insert(CAPACITY, fresh[0]): "slot 4 does not exist; there are 0 to 3",
    lambda: slots.insert(1, two): "a slot holds one episode; the stream has 2",
    lambda: slots.insert(1, wide): "latent frames of the stream are",
    lambda: slots.insert(1, short): r"context of the stream is \(5, 16\); those of the slots are \(8, 16\)",
    lambda: slots.reset([1], frames[:, :1]): "slot 1 holds no stream",
    lambda: slots.reset([2], frames[:, :1, 8:]): r"continues with \[1, T, 16, 16, 3\]",
    lambda: slots.reset([2], frames[[0, 0], :1]): r"continues with \[1, T, 16, 16, 3\]",
    lambda: slots.reset([2], frames[:, :0]): r"it must be \[batch, 1 \+ 4n",
    lambda: slots.drop([1]): r"slot 1 holds no stream; occupied are \[2\]",
    lambda: slots.fork(0, 1): "slot 0 holds no stream",
    lambda: slots.extend([], frames[:0]): r"slots are \[\]",
    lambda: slots.extend([2, 2], frames[[0, 0]]): "each once",
    lambda: slots.extend([2], frames[:, :3]): "frames is 3; it must be a positive multiple of 4",
    lambda: slots.extend([2], frames[:, :0]): "frames is 0",
    lambda: slots.extend([2], frames[:, :, 8:]): "this stream continues with",
    lambda: slots.act([2], np.full((1, 3), np.nan), seeds=[0]): "all numbers must be finite",
    lambda: slots.act([2], np.array([[0, np.inf, 0]]), seeds=[0]): "all numbers must be finite",
    lambda: slots.act([2], np.zeros((1, 4)), seeds=[0]): r"\(1, 4\); it must be \(1, 3\)",
    lambda: slots.act([2], np.zeros((1, 3)), seeds=[0], steps=0): "steps is 0",
    lambda: slots.act([2], np.zeros((1, 3)), seeds=[0, 1]): "give one of 0",
    lambda: slots.act([2], np.zeros((1, 3)), seeds=[-1]): "give one of 0",
    lambda: slots.step([2], [None], np.zeros((1, 3)), seeds=[0]): "1 videos, 0 of them new, for 1 slots",
    lambda: slots.step([2], [frames[0, :3]], np.zeros((1, 3)), seeds=[0]): "frames is 3",
    lambda: slots.imagine([2], 6, seeds=[0]): "frames is 6",
    lambda: slots.imagine([2], 4, seeds=[0], steps=0): "steps is 0",
    lambda: slots.imagine_latents([2], 0, seeds=[0]): "count is 0",
    lambda: Slots(model, 0): "capacity is 0",
    lambda: Slots(model, 2, smallest=0): "smallest is 0",
  }.items():
    with pytest.raises(KairosError, match=says) as caught:
      run()
    assert "\n" not in str(caught.value)
  close(slots.stream(2), before)


def test_a_model_whose_memory_grows_has_no_slots(tiny_saved):
  growing = WorldModel(dataclasses.replace(tiny_saved, model_config=tiny.model_config(video_frames=None)))
  with pytest.raises(KairosError, match="actions read all frames"):
    Slots(growing, 2)


@pytest.mark.slow
def test_eight_positions_cost_what_one_does(model):
  """A step of eight streams, extend and act, whether they began at one moment or at eight; paired, in turns."""
  together, apart = Slots(model, 8), Slots(model, 8)
  start = model.prefill(tiny.frames(1), "push")
  for slot in range(8):
    together.insert(slot, start)
    far = start.memory.replace(position=jnp.full(1, 1 + 977 * slot, jnp.int32))
    apart.insert(slot, dataclasses.replace(start, memory=far))
  there, frames, states = list(range(8)), np.stack([tiny.frames(4)] * 8), np.zeros((8, 3))

  def step(slots):
    slots.extend(there, frames)
    return slots.act(there, states, seeds=there)

  calls = {"one": lambda: step(together), "eight": lambda: step(apart)}
  times = timing.measure(calls, rounds=60)
  ratio = times["eight"].median / times["one"].median
  print(f"eight positions over one: {ratio:.3f} ({times['eight'].median * 1e3:.1f} ms)")
  assert ratio < 1.3
