"""Training on latents that a released codec, loaded from its file and frozen, encodes on the fly."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from data_pipelines.simulate.generate import build
from experiments import cue_reach
from kairos_jax import assembly, files
from kairos_jax.errors import KairosError
from kairos_jax.interop import codec_weights, saved_model
from kairos_jax.training import curriculum, metrics
from tests.codec import wan_oracle

WAN = dict(kind="wan", base=2, multipliers=(1, 2, 1), blocks=1)


def config_of(folder, **codec):
  config = cue_reach.get_config()
  config.order = ("robot",)
  config.stages.robot.share = 1.0
  config.stages.robot.mixture = ConfigDict(dict(start=dict(robot=1.0), end=dict(robot=1.0)))
  config.data.update(folder=str(folder / "data"), sources=("robot",), frames=9)
  config.codec = ConfigDict(codec)
  config.bridge = ConfigDict(dict(kind="words", vocabulary=32, tokens=8, dim=8, text_dim=16))
  config.model.video.update(dim=16, ffn_dim=32, heads=2, layers=("SWA",), key_dim=8, value_dim=8, freq_dim=16)
  config.model.action.update(dim=16, ffn_dim=32, freq_dim=16, video_frames=4)
  config.train.update(steps=1, batch_size=2, chunks_per_clip=1, log_every=1, checkpoint_every=1)
  config.validation.update(clips=1, levels=(0.5,))
  return config


@pytest.mark.slow
def test_a_step_on_frozen_released_weights(tmp_path):
  codec = assembly.make_codec(WAN)
  hollow = jax.tree.map(lambda x: np.broadcast_to(np.uint8(0), x.shape), codec.param_shapes())
  tensors = wan_oracle.random_tensors({name: x.shape for name, x in codec.to_reference(hollow).items()}, seed=0)
  files.write_safetensors(tmp_path / "vae.safetensors", tensors)
  build(tmp_path / "data", dict(robot=2), seed=0, size=16)
  curriculum.run(config_of(tmp_path, **WAN, weights=str(tmp_path / "vae.safetensors")), tmp_path / "run")
  (line,) = (x for x in metrics.read(tmp_path / "run/robot/metrics.jsonl") if "loss" in x)
  assert np.isfinite([line["loss_video"], line["loss_action"]]).all()
  saved = saved_model.load(tmp_path / "run")
  assert saved.codec == codec  # the file's path is no part of the model
  want = flatten_dict(codec_weights.load(codec, tmp_path / "vae.safetensors"))
  for path, value in flatten_dict(saved.params["codec"]).items():
    np.testing.assert_array_equal(value, want[path])


def test_a_released_codec_without_its_file_is_told(tmp_path):
  build(tmp_path / "data", dict(robot=2), seed=0, size=16)
  with pytest.raises(KairosError, match="'wan' is not fitted: config key codec.weights must name its weight file"):
    curriculum.run(config_of(tmp_path, **WAN), tmp_path / "run")
