"""Sessions in slots: each is answered as if it were alone, and as evaluation's policy would answer."""

import dataclasses

import jax
import numpy as np
import pytest

from kairos_jax import seeds
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.policies import ModelPolicy
from kairos_jax.runtime import WorldModel
from kairos_jax.runtime.world_model import seed_words
from kairos_jax.serving.engine import Answer, Engine, Full
from kairos_jax.serving.observation import MAX_FRAMES, Reader, Request
from tests import tiny
from tests.evaluation.counter import Seen
from tests.serving.conftest import STEPS, observation


@pytest.fixture(scope="module")
def engine(model):
  one = Engine(model, capacity=3, batch=2, steps=STEPS)
  assert set(one.warm_up()) == {1, 2} and not one.sessions
  return one


@pytest.fixture
def reader(model):
  return Reader(model, None)


@pytest.fixture(autouse=True)
def empty(request):
  yield
  if "engine" in request.fixturenames:
    request.getfixturevalue("engine").release_idle(-1)


def request(which, frames=1, prompt="push", **more):
  rng = np.random.default_rng(which)
  return Request(tiny.frames(frames, seed=which), rng.standard_normal(3).astype(np.float32), prompt, **more)


def test_a_session_is_answered_as_evaluations_policy_answers_an_episode(engine, model):
  """Over more latents than a clip has: the stream goes on."""
  policy = ModelPolicy(model, ["push"], "slide_arm", steps=STEPS)
  policy.reset([0])
  for call in range(13):
    asked = request(call, frames=4 if call else 1, seed=100 + call)
    answer = engine.infer({"a": asked})["a"]
    seen = [Seen({"front": frame}, asked.state) for frame in asked.frames]
    want = policy.act([0], [seen], [100 + call])[0]
    np.testing.assert_allclose(answer.actions[: len(want)], want, atol=1e-5)
    assert answer.begun == (call == 0) and answer.latents == call + 1


def test_frames_wait_until_they_fill_a_latent(engine, model):
  """Given one at a time or all at once, they make the same memory."""
  one, many = tiny.frames(9, seed=1), request(1, frames=9)
  for frame in one[:-1]:
    answer = engine.infer({"a": Request(frame[None], many.state, "push", seed=0)})["a"]
  assert answer.latents == 2  # 8 frames: the first alone, four, and three that wait
  answer = engine.infer({"a": Request(one[-1:], many.state, None, seed=7)})["a"]
  stream = model.extend(model.extend(model.prefill(one[:1], "push"), one[1:5]), one[5:])
  np.testing.assert_allclose(answer.actions, model.act(stream, many.state, seed=[7], steps=STEPS), atol=1e-5)
  assert answer.latents == 3


def test_a_robot_that_is_faster_than_the_video_tells_every_second_frame(model):
  engine = Engine(WorldModel(dataclasses.replace(model.saved, video_fps=5.0)), capacity=1, batch=1, steps=STEPS)
  frames, state = tiny.frames(9, seed=2), np.zeros(3, np.float32)
  for part in (frames[:1], frames[1:4], frames[4:]):
    answer = engine.infer({"a": Request(part, state, "push", seed=3)})["a"]
  stream = model.extend(model.prefill(frames[:1], "push"), frames[2::2])
  np.testing.assert_allclose(answer.actions, model.act(stream, state, seed=[3], steps=STEPS), atol=1e-5)


def test_a_new_prompt_and_a_reset_begin_a_memory(engine, model):
  engine.infer({"a": request(1)})
  assert engine.infer({"a": request(2, frames=4)})["a"].latents == 2
  for asked, text in ((request(3, frames=4, prompt="pull", seed=5), "pull"), (request(4, prompt=None, seed=5), "pull")):
    answer = engine.infer({"a": asked})["a"]
    assert answer.begun and answer.latents == 1
    want = model.act(model.prefill(asked.frames[-1:], text), asked.state, seed=[5], steps=STEPS)
    np.testing.assert_allclose(answer.actions, want, atol=1e-5)
    engine.reset("a")


def test_noise_is_the_sessions_own_count(engine):
  """And a reset counts from the beginning, so an episode can be repeated."""
  first = [engine.infer({"a": request(i)})["a"].actions for i in range(2)]
  again = engine.infer({"b": request(0), "a": request(7)})["b"]
  np.testing.assert_allclose(again.actions, first[0], atol=1e-5)
  engine.reset("a")
  np.testing.assert_allclose(engine.infer({"a": request(0)})["a"].actions, first[0], atol=1e-5)
  given = engine.infer({"b": request(1, seed=seeds.derive(0, "call", 1))})["b"]
  np.testing.assert_allclose(given.actions, first[1], atol=1e-5)


def test_full_is_said_and_slots_come_back(engine):
  for name in "abc":
    assert isinstance(engine.infer({name: request(0)})[name], Answer)
  answers = engine.infer({"d": request(1), "a": request(1)})
  assert isinstance(answers["d"], Full) and isinstance(answers["a"], Answer) and engine.sessions == 3
  engine.release("b")
  engine.release("b")
  answer = engine.infer({"d": request(0)})["d"]
  assert answer.begun and engine.release_idle(1000.0) == [] and sorted(engine.release_idle(-1)) == ["a", "c", "d"]


@pytest.mark.parametrize(("capacity", "batch"), [(2, 4), (4, 3), (4, 0)])
def test_batches_that_cannot_be(model, capacity, batch):
  with pytest.raises(KairosError, match="batch is"):
    Engine(model, capacity=capacity, batch=batch)


def test_an_observation_is_read_in_both_layouts(reader):
  nested = reader.read(observation(3, frames=2, seed=2**64 - 1, deadline_ms=250))
  assert nested.frames.shape == (2, 16, 16, 3) and nested.seed == 2**64 - 1 and nested.deadline == 0.25
  whole = observation(3)
  flat = reader.read({"observation/front": whole["images"]["front"], "observation/state": list(map(float, range(3)))})
  assert flat.frames.shape == (1, 16, 16, 3) and flat.prompt is None and flat.seed is None
  np.testing.assert_array_equal(flat.frames[0], whole["images"]["front"])
  larger = reader.read({**whole, "images": {"front": tiny.frames(1, size=40)[0]}})
  assert larger.frames.shape == (1, 16, 16, 3)


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"images": 3}, "images is a int"),
    ({"images": {}}, "camera 'front' is missing"),
    ({"images": {"front": [1, 2]}}, "camera 'front' is missing"),
    ({"images": {"front": np.zeros((16, 16, 3), np.float32)}}, "uint8"),
    ({"images": {"front": np.zeros((16, 3), np.uint8)}}, "front"),
    ({"images": {"front": np.zeros(3, np.uint8)}}, "front"),
    ({"images": {"front": np.zeros((16, 16, 4), np.uint8)}}, "front"),
    ({"images": {"front": np.zeros((0, 16, 3), np.uint8)}}, "pictures are"),
    ({"images": {"front": np.zeros((2, 2, 16, 16, 3), np.uint8)}}, "leading axes"),
    ({"images": {"front": np.zeros((MAX_FRAMES + 1, 1, 1, 3), np.uint8)}}, "leading axes"),
    ({"state": None}, "state"),
    ({"state": "abc"}, "state"),
    ({"state": {"a": 1}}, "state"),
    ({"state": np.zeros(4)}, "3 finite numbers"),
    ({"state": np.array([0, np.nan, 1])}, "3 finite numbers"),
    ({"state": np.array([0, 1e300, 1])}, "3 finite numbers"),
    ({"prompt": 3}, "prompt"),
    ({"prompt": "x" * 3000}, "prompt"),
    ({"seed": -1}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"seed": True}, "seed"),
    ({"deadline_ms": "soon"}, "deadline_ms"),
  ],
)
@pytest.mark.mistakes
def test_what_an_observation_must_be(reader, changes, says):
  with pytest.raises(KairosError, match=says) as caught:
    reader.read({**observation(1), **changes})
  assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_chunk_continues_the_one_that_is_being_executed(model):
  """As flow.chunking alone says, beside a session that has none, and near to the old chunk where it is executed."""
  engine = Engine(model, capacity=2, batch=2, steps=STEPS, chunking=True)
  reader = Reader(model, None, chunking=True)
  left = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
  sent = observation(1, seed=5, previous=left, delay=1)
  asked = reader.read(sent)
  answers = engine.infer({"a": asked, "b": request(1, seed=5)})
  free, guided = answers["b"].actions, answers["a"].actions
  stream = model.prefill(tiny.frames(1, seed=1), "push")
  np.testing.assert_allclose(free, model.act(stream, asked.state, seed=[5], steps=STEPS), atol=1e-5)
  robot = model.robot(None)
  normal, mask = model.normal_states(asked.state[None], 1, robot)
  before = np.concatenate([left, np.zeros((1, 3), np.float32)])[None], np.asarray([3]), np.asarray([1])
  words = seed_words([5], 1)
  decide = jax.jit(model.decide, static_argnames="steps")
  want = decide(model.params, stream, normal, mask, model.own_actions(robot, 1), words, *before, steps=STEPS)
  np.testing.assert_allclose(guided, want[0], atol=1e-5)
  assert np.abs(guided[0] - left[0]).max() < np.abs(free[0] - left[0]).max()
  for wrong in ({"delay": 2}, {"previous": left[:0]}, {"previous": left[:, :2]}, {"previous": np.full((3, 3), np.nan)}):
    with pytest.raises(KairosError, match="previous"):
      reader.read({**sent, **wrong})
  assert Reader(model, None).read(sent).previous is None
