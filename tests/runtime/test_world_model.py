import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.normalize import Normalizer
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import rollout
from kairos_jax.interop import saved_model
from kairos_jax.runtime import WorldModel, load
from kairos_jax.runtime.slots import Slots
from tests import tiny


@pytest.fixture(scope="module")
def model(tiny_saved):
  return WorldModel(tiny_saved)


@pytest.mark.slow
def test_a_batch_is_its_episodes_one_by_one(model):
  """Whatever their order and company: each has its own instruction, state and noise."""
  first, later = np.stack([tiny.frames(5, seed=i) for i in (0, 1)]), np.stack([tiny.frames(4, seed=i) for i in (2, 3)])
  states, texts = np.array([[0.1, 0.2, 0.3], [-0.5, 0.0, 0.5]], np.float32), ["push", "pull it"]
  stream = model.extend(model.prefill(first, texts), later)
  assert stream.batch == 2 and stream.memory.position.tolist() == [3, 3]
  got = model.act(stream, states, seed=[7, 2**40], steps=2)
  pixels = model.imagine(stream, 4, seed=[7, 2**40], steps=2)
  assert got.shape == (2, model.saved.action_horizon, 3)
  for row, seed in enumerate((7, 2**40)):
    alone = model.extend(model.prefill(first[row], texts[row]), later[row])
    np.testing.assert_allclose(model.act(alone, states[row], seed=[seed], steps=2), got[row], atol=1e-5)
    alone_pixels = model.imagine(alone, 4, seed=[seed], steps=2)[0]
    np.testing.assert_allclose(alone_pixels.astype(int), pixels[row].astype(int), atol=1)
  for other in ([7, 2**40 + 1], [8, 2**40], 0):
    assert np.abs(model.act(stream, states, seed=other, steps=2) - got).max() > 1e-3


def test_one_seed_gives_each_episode_its_own_noise(model):
  stream, states = model.prefill(np.stack([tiny.frames(5)] * 2), "push"), np.zeros((2, 3), np.float32)
  one, two = model.act(stream, states, seed=3, steps=2)
  assert np.abs(one - two).max() > 1e-3


def test_guidance_leads_away_from_the_negative_instruction(model):
  frames = np.stack([tiny.frames(5, seed=i) for i in (0, 1)])
  stream, negative = (model.prefill(frames, text) for text in (["push", "pull it"], ""))
  with_words, without = (np.asarray(model.imagine_latents(s, 2, seed=3, steps=1)) for s in (stream, negative))
  assert np.abs(with_words - without).max() > 1e-3
  found = model.imagine_latents(stream, 2, seed=3, steps=1, guidance=2.5, negative=negative)
  np.testing.assert_allclose(found, without + 2.5 * (with_words - without), atol=2e-5)  # one step is linear


@pytest.mark.slow
def test_videos_without_words_are_not_guided(model):
  seen = np.stack([tiny.frames(5, seed=i) for i in (0, 1)])
  plain, guided, words = (
    rollout.samples(model, seen, texts, 8, 3, seed=0, guidance=guidance)
    for texts, guidance in ((["", ""], 1.0), (["", ""], 4.0), (["push", "pull"], 4.0))
  )
  np.testing.assert_allclose(guided.astype(int), plain.astype(int), atol=1)
  assert np.abs(words.astype(int) - plain).max() > 8


def test_parameters_are_arguments_of_what_is_compiled(model):
  """No constant that is as large as a weight matrix lies in the program, nor one of the codec's."""
  frames, tokens = tiny.frames(5)[None], model.encoder.tokenize(["push"])
  stream = model.prefill(frames, "push")
  words, state = np.zeros((1, 2), np.uint32), np.zeros((1, 3), np.float32)
  programs = {
    "begin": jax.make_jaxpr(model.begin)(model.params, frames, tokens),
    "see": jax.make_jaxpr(model.see)(model.params, stream, tiny.frames(4)[None]),
    "decide": jax.make_jaxpr(lambda *a: model.decide(*a, steps=2))(
      model.params, stream, state, state == 0, state == 0, words
    ),
    "show": jax.make_jaxpr(model.show)(model.params, stream, np.zeros((1, 1, 2, 2, tiny.CHANNELS), np.float32)),
  }
  weights = [np.asarray(leaf) for leaf in jax.tree.leaves(model.params)]
  for name, program in programs.items():
    for constant in map(np.asarray, program.consts):
      assert not any(w.shape == constant.shape and w.size > 8 and np.allclose(w, constant) for w in weights), name


def test_a_saved_and_loaded_model_acts_in_the_robots_units(model, tmp_path):
  units = Normalizer("min_max", np.full(3, 5, np.float32), np.full(3, 5, np.float32))
  robot = dataclasses.replace(model.saved.embodiments["slide_arm"], action=units)
  saved_model.save(tmp_path / "model", dataclasses.replace(model.saved, embodiments={"slide_arm": robot}))
  stream, state = model.prefill(tiny.frames(5), "push"), np.array([0.1, 0.2, 0.3], np.float32)
  want, got = (m.act(stream, state, steps=2) for m in (model, load(tmp_path)))
  assert got.shape == (model.saved.action_horizon, 3)  # one state, one chunk
  np.testing.assert_allclose(got, 5 + 5 * want, rtol=1e-4, atol=1e-4)


def test_a_robots_actions_do_not_depend_on_the_dimensions_that_it_lacks(tiny_saved):
  """A robot of two joints in a model of three: neither the third's noise nor its weights matter, alone or in slots."""
  whole = tiny_saved.embodiments["slide_arm"]
  two = Normalizer("z_score", np.array([0.5, -1], np.float32), np.array([2, 0.3], np.float32))
  kind = dataclasses.replace(whole.embodiment, name="two", action=whole.embodiment.action[:2])
  robots = {"two": dataclasses.replace(whole, embodiment=kind, action=two), "slide_arm": whole}
  model, state = WorldModel(dataclasses.replace(tiny_saved, embodiments=robots)), np.array([0.1, 0.2, 0.3], np.float32)
  stream, slots = model.prefill(tiny.frames(5), "push"), Slots(model, 2)
  slots.insert(1, stream)
  tower, answers = model.params["action"], []
  for weight in (0.3, 1e3):
    kernel = jnp.asarray(tower["action_encoder"]["kernel"]).at[2].set(weight)
    model.params = model.params | {"action": tower | {"action_encoder": tower["action_encoder"] | {"kernel": kernel}}}
    answer = {name: model.act(stream, state, seed=[7], steps=2, embodiment=name) for name in robots}
    answers.append(answer | {"slot": slots.act([1], state[None], seeds=[7], steps=2, embodiment="two")[0]})
  first, second = answers
  assert first["two"].shape == (tiny_saved.action_horizon, 2)
  for name in ("two", "slot"):
    np.testing.assert_allclose(second[name], first[name], atol=1e-6)
    np.testing.assert_allclose(first[name], first["two"], atol=1e-5)
  assert np.abs(second["slide_arm"] - first["slide_arm"]).max() > 0.1  # a robot that has the joint


@pytest.mark.mistakes
def test_errors_are_one_line(model, tiny_saved):
  stream = model.prefill(tiny.frames(1), "push")
  model_config = dataclasses.replace(tiny_saved.model_config, action=None)
  for run, says in {
    lambda: model.prefill(tiny.frames(4), "push"): r"1 \+ 4n",
    lambda: model.prefill(tiny.frames(1).astype(np.float32), "push"): "must be uint8",
    lambda: model.prefill(tiny.frames(1), ["push", "pull"]): "2 instructions for 1 episodes",
    lambda: model.extend(stream, tiny.frames(5)): "positive multiple of 4",
    lambda: model.imagine(stream, frames=6): "multiple of 4",
    lambda: model.act(stream, np.zeros(4, np.float32)): r"\(1, 4\); it must be \(1, 3\)",
    lambda: model.extend(stream, np.stack([tiny.frames(4)] * 2)): r"continues with \[1, T, 16, 16, 3\]",
    lambda: model.extend(stream, tiny.frames(4, size=24)): r"continues with \[1, T, 16, 16, 3\]",
    lambda: model.extend(stream, tiny.frames(0)): "frames is 0",
    lambda: model.imagine(stream, frames=0): "frames is 0",
    lambda: model.imagine(stream, frames=4, steps=0): "steps is 0",
    lambda: model.imagine(stream, 4, guidance=3.0): "guidance is 3.0, which needs `negative`",
    lambda: model.imagine(
      stream, 4, guidance=3.0, negative=model.prefill(np.stack([tiny.frames(1)] * 2), "")
    ): "`negative` has 2 videos",
    lambda: model.act(stream, np.zeros(3), steps=0): "steps is 0",
    lambda: model.act(stream, np.zeros(3), embodiment="hand"): "embodiment is 'hand'; this model drives slide_arm",
    lambda: model.act(stream, np.array([0, np.nan, 0])): "all numbers must be finite",
    lambda: model.act(stream, np.array([0, 0, -np.inf])): "all numbers must be finite",
    lambda: model.act(stream, np.zeros(3), seed=[1, 2]): "give one of 0",
    lambda: model.act(stream, np.zeros((2, 3), np.float32)): r"\(2, 3\); it must be \(1, 3\)",
    lambda: WorldModel(dataclasses.replace(tiny_saved, model_config=model_config)).act(
      stream, np.zeros(3)
    ): "no action tower",
  }.items():
    with pytest.raises(KairosError, match=says) as caught:
      run()
    assert "\n" not in str(caught.value)
