"""What a stage begins with."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import cue_reach
from kairos_jax import assembly
from kairos_jax.bridge import TextBridge
from kairos_jax.errors import KairosError
from kairos_jax.interop import saved_model
from kairos_jax.model.world_action import init_params
from kairos_jax.parallel.mesh import make_mesh
from kairos_jax.training import parts, stages
from kairos_jax.training.run_config import parse_run
from tests import tiny


class Trained(TextBridge):
  """Comes trained: whatever the key, its parameters are read from a file, so they are numbers and not traced."""

  def init(self, key):
    assert not isinstance(key, jax.core.Tracer), "its weights would be constants of a compiled function"
    return {"table": jnp.arange(5.0)}


@pytest.mark.parametrize("actions", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_encoder_that_comes_trained_is_no_part_of_a_compiled_function(actions):
  towers = tiny.model_config() if actions else dataclasses.replace(tiny.model_config(), action=None)
  made = parts.grow({}, {}, towers, Trained(), jax.random.key(3), "nothing", make_mesh())
  assert set(made) == {"bridge", "video"} | ({"action"} if actions else set())
  np.testing.assert_array_equal(made["bridge"]["table"], np.arange(5.0))


def test_what_is_there_is_kept_and_what_is_new_is_made():
  towers, key = tiny.model_config(), jax.random.key(3)
  first = parts.grow({}, {}, dataclasses.replace(towers, action=None), TextBridge(), key, "nothing", make_mesh())
  both = parts.grow(first, {}, towers, TextBridge(), jax.random.key(4), "nothing", make_mesh())
  for name in ("bridge", "video"):
    jax.tree.map(np.testing.assert_array_equal, both[name], first[name])
  assert set(both) == {"bridge", "video", "action"}


def test_a_codec_comes_from_one_place(tmp_path):
  said = "config key codec.weights is 'vae.pth'; allowed: none, init_from runs/old brings its codec"
  with pytest.raises(KairosError, match=re.escape(said)):
    parts.take_codec(
      assembly.make_codec(dict(kind="pca", channels=4)),
      {"codec": {}},
      tmp_path / "codec.safetensors",
      "runs/old",
      "vae.pth",
    )


@pytest.mark.mistakes  # a source that is none
def test_a_run_without_actions_leaves_a_model_that_loads(tmp_path, monkeypatch):
  """Its config describes an action tower, which no stage of `order` trained."""
  config = cue_reach.get_config()
  config.order = ("hand",)
  config.stages.hand.share = 1.0
  config.validation = None
  config.codec = ConfigDict(dict(kind="pca", channels=4))
  config.bridge = ConfigDict(dict(kind="words", vocabulary=32, tokens=8, dim=8, text_dim=16))
  config.model.video.update(dim=16, ffn_dim=32, heads=2, layers=("SWA",), key_dim=8, value_dim=8, freq_dim=16)
  run, whole = parse_run(config), tiny.saved()
  towers = stages.model_config(run, with_actions=False)
  shapes = {
    **jax.eval_shape(lambda: init_params(towers, jax.random.key(0))),
    "bridge": jax.eval_shape(lambda: assembly.make_encoder(run.bridge).init(jax.random.key(0))),
    "codec": assembly.make_codec(run.codec).param_shapes(),
  }
  params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  codec, encoder = assembly.make_codec(run.codec), assembly.make_encoder(run.bridge)
  monkeypatch.setattr(parts, "picture_size", lambda source, resolution: (48, 48))
  this = stages._Run(run, tmp_path, {"hand": []}, {}, whole.embodiments, codec, encoder, make_mesh())
  stages._save(this, tmp_path / "model", params)
  loaded = saved_model.load(tmp_path)
  assert loaded.model_config.action is None and set(loaded.params) == {"bridge", "video", "codec"}
