"""A stage of several buckets trains: one compilation for each, single frames among the videos, exact resumption."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from data_pipelines.curriculum.buckets import Shapes
from data_pipelines.curriculum.schedule import Mixture
from data_pipelines.loader import make_loader
from data_pipelines.shards import write_shards
from kairos_jax.parallel.mesh import make_mesh
from kairos_jax.training import curriculum, load_params, loop, metrics
from tests.data_pipelines.conftest import make_clip, open_sources
from tests.training import toy
from tests.training.test_released_codec import config_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("buckets")
  rng = np.random.default_rng(3)

  def clips():
    for i, frames in enumerate((5, 9, 13, 6, 3, 9, 8, 22)):
      video = rng.integers(0, 256, (frames, 16, 16, 3), dtype=np.uint8)
      labels = dict(state_dim=0, action_dim=0, embodiment="none", source="physics")
      yield make_clip(i, frames, cameras={"front": video}, **labels)

  write_shards(clips(), folder / "data/physics", "physics", 4)
  return folder


def loss_fn(params, batch, key):
  video = batch["video"].astype(jnp.float32).mean((1, 2, 3)) / 255
  loss = jnp.mean((video * params["w"] - batch["length"][:, None] / 9) ** 2)
  return loss, {}


def train(folder, workdir, steps=12):
  data = make_loader(
    open_sources({"physics": folder / "data/physics"}),
    Mixture({"physics": 1.0}, {"physics": 1.0}),
    batch_size=8,
    shapes=Shapes({5: 0, 9: 0}, image_share=0.3),
    video_fps=10.0,
    seed=0,
    tokenize=lambda text: np.zeros(1),
    steps=steps,
    crop="random",
    instruction_share=(0.0, 1.0),
    state_dim=1,
    action_dim=1,
    normalizers={},
  )
  config = toy.make_config(steps=steps, log_every=1, checkpoint_every=6)
  params = {"w": jnp.ones(3)}
  return loop.train(name="toy", loss_fn=loss_fn, params=params, data=data, workdir=workdir, mesh=make_mesh(), **config)


def test_each_bucket_is_compiled_once_and_an_interrupted_stage_goes_on_exactly(folder, tmp_path, monkeypatch):
  made, shapes = [], []
  make, send = loop.make_train_step, loop.to_devices
  monkeypatch.setattr(loop, "make_train_step", lambda *args: made.append(make(*args)) or made[-1])
  monkeypatch.setattr(
    loop, "to_devices", lambda batch, *rest: shapes.append(batch["video"].shape) or send(batch, *rest)
  )
  final = train(folder, tmp_path)
  assert {shape[1] for shape in shapes} == {1, 5, 9} and len(shapes) == 12
  assert made[0]._cache_size() == 3

  whole = toy.losses(tmp_path)
  shutil.rmtree(tmp_path / "checkpoints/12")
  again = train(folder, tmp_path)
  np.testing.assert_array_equal(again["w"], final["w"])
  assert toy.losses(tmp_path) == whole and len(shapes) == 18


@pytest.mark.slow
def test_the_world_action_model_trains_on_images_and_videos(folder):
  config = config_of(folder, kind="pca", channels=4)
  config.order = ("physics",)
  config.validation = None
  config.data.sources = ("physics",)
  config.stages.physics.share = 1.0
  config.stages.physics.mixture = ConfigDict(dict(start=dict(physics=1.0), end=dict(physics=1.0)))
  config.stages.physics.update(frames=(5,), image_share=0.3, filters=ConfigDict(dict(seconds=(0.4, 30.0))))
  config.train.update(steps=6, checkpoint_every=3)
  curriculum.run(config, folder / "run")
  lines = [line for line in metrics.read(folder / "run/physics/metrics.jsonl") if "loss" in line]
  # A single frame is never observed: there is always something to predict.
  assert len(lines) == 6 and all(np.isfinite(line["loss"]) and line["loss"] > 0 for line in lines)
  assert set(load_params(folder / "run/physics/checkpoints")) >= {"video"}
