"""experiments/distill.py at the tiny shape: the student in its tower's place, its own steps, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

import kairos_jax
from data_pipelines.simulate.generate import build
from data_pipelines.source import ArrayRecordSource
from experiments import distill
from kairos_jax.errors import KairosError
from kairos_jax.flow.schedule import DMD_SHIFT, dmd_schedule
from kairos_jax.interop import saved_model
from kairos_jax.training import curriculum, load_params, parts
from kairos_jax.training.run_config import parse_run
from tests import tiny
from tests.training import toy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A tiny model of the simulated robot, and a dataset."""
  folder = tmp_path_factory.mktemp("distill")
  build(folder / "data", dict(robot=2), seed=0, size=16)
  saved_model.save(folder / "model", tiny.saved(tiny.model_config(layers=("SWA", "GATED"))))
  return folder


def short(folder, what, **changes):
  config = distill.get_config(f"{what},from={folder / 'model'},data={folder / 'data/robot'}")
  config.train.update(steps=4, batch_size=2, log_every=2, checkpoint_every=2, chunks_per_clip=2)
  config.stages.distill.distill.update(dict(every=2, teacher_steps=8, **changes))
  return config


def leaves(tree):
  return [np.asarray(x) for x in jax.tree.leaves(tree)]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "tower", "other"), [("video", "video", "action"), ("actions", "action", "video")])
def test_a_student_takes_its_own_steps_and_leaves_the_rest(folder, tmp_path, what, tower, other):
  curriculum.run(short(folder, what), tmp_path / "run")
  assert set(load_params(tmp_path / "run/distill/checkpoints")) == {"student", "critic"}
  lines = [line for line in toy.losses(tmp_path / "run/distill") if "loss" in line]
  losses = {"loss", "loss_matching", "loss_consistency", "loss_critic", "grad_norm"}
  assert [line["step"] for line in lines] == [2, 4] and all(set(line) == {"step", *losses} for line in lines)
  before, after = (saved_model.load(x) for x in (folder / "model", tmp_path / "run"))
  for name in (other, "codec", "bridge"):
    for x, y in zip(leaves(before.params[name]), leaves(after.params[name]), strict=True):
      np.testing.assert_array_equal(x, y)
  assert any((x != y).any() for x, y in zip(leaves(before.params[tower]), leaves(after.params[tower]), strict=True))
  assert after.embodiments["slide_arm"].to_json() == before.embodiments["slide_arm"].to_json()
  assert after.video_times == (distill.VIDEO_TIMES if what == "video" else ())
  assert after.action_times == (distill.ACTION_TIMES if what == "actions" else ())

  model = kairos_jax.load(tmp_path / "run")
  stream = model.prefill(tiny.frames(5), "push the red ball")
  if what == "video":
    few, many = (np.asarray(model.imagine_latents(stream, 1, steps=steps)) for steps in (1, 9))
    np.testing.assert_array_equal(few, many)
  else:
    few, many = (model.act(stream, np.zeros(3, np.float32), steps=steps) for steps in (1, 9))
    np.testing.assert_array_equal(few, many)
  assert np.isfinite(few).all()


def test_a_students_steps_are_those_of_its_schedule(tiny_saved):
  """Predict, noise with the first noise, predict: in numpy, from the model's own velocities."""
  times = (1000.0, 500.0)
  model = kairos_jax.WorldModel(dataclasses.replace(tiny_saved, action_times=times))
  stream = model.prefill(tiny.frames(5), "push the red ball")
  got = model.act(stream, np.zeros(3, np.float32), seed=[7])
  assert got.shape == (4, 3)
  from kairos_jax.runtime.world_model import _noise, seed_words

  noise = np.asarray(_noise(seed_words([7], 1), (4, 3)))
  ones = np.ones((1, 3), bool)
  context = model.model.apply(
    {"params": model.params}, stream.context, np.zeros((1, 3), np.float32), ones, method="with_state"
  )
  x, sigmas = noise, dmd_schedule(times, DMD_SHIFT).sigmas
  for sigma, after in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
    arguments = (stream.memory, x, np.full(1, sigma * 1000, np.float32), context)
    v = np.asarray(model.model.apply({"params": model.params}, *arguments, method="denoise_actions"))
    x = (1 - after) * (x - sigma * v) + after * noise
  robot = next(iter(tiny_saved.embodiments.values()))
  np.testing.assert_allclose(got, robot.action.denormalize(x[0]), atol=2e-4)


def test_a_student_is_saved_with_its_steps(tiny_saved, tmp_path):
  plain = saved_model.content_hash(tiny_saved)
  student = dataclasses.replace(tiny_saved, video_times=(1000.0, 250.0))
  saved_model.save(tmp_path, student)
  assert saved_model.load(tmp_path).video_times == (1000.0, 250.0)
  assert saved_model.content_hash(student) != plain


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"model.video_times": ()}, "model.video_times is .*; allowed: falling timesteps up to 1000"),
    ({"model.video_times": (100.0, 1000.0)}, "model.video_times is .*; allowed: falling timesteps"),
    ({"stages.distill.frozen": ("bridge/*",)}, "distill.distill is .*allowed: None beside lora, frozen"),
    ({"stages.distill.distill.matching": 0.0, "stages.distill.distill.consistency": 0.0}, "matching is 0.0"),
    ({"stages.distill.actions": True}, "stages.distill.actions is True; allowed: False"),
    ({"stages.distill.distill.guidence": 3.0}, "unknown config key .*guidence; did you mean guidance"),
  ],
)
def test_what_is_refused(folder, changes, says):
  config = short(folder, "video")
  with config.unlocked():
    for key, value in changes.items():
      *path, last = key.split(".")
      place = config
      for name in path:
        place = place[name]
      place[last] = value
  with pytest.raises(KairosError, match=says):
    parse_run(config)


def test_the_units_of_the_teacher_are_kept(folder, tiny_saved, tmp_path):
  source = ArrayRecordSource(folder / "data/robot")
  own = parts.units({"robot": source}, None)["slide_arm"].to_json()
  saved_model.save(tmp_path, tiny_saved)  # whose robot has other units
  kept = parts.units({"robot": source}, str(tmp_path))["slide_arm"].to_json()
  assert kept == tiny_saved.embodiments["slide_arm"].to_json() != own
  assert distill.get_config(f"video,from={tmp_path}").data.units == str(tmp_path)
