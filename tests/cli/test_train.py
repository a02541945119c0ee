"""`kairos train` from a config to a model, on a run as small as can be."""

import json
import textwrap

import jax
import numpy as np
import pytest

import kairos_jax
from data_pipelines.simulate.generate import build
from kairos_jax.cli.main import main
from kairos_jax.training import load_params
from kairos_jax.training.metrics import read

CONFIG = """
from ml_collections import ConfigDict
from experiments import cue_reach

def get_config():
  config = cue_reach.get_config()
  config.order = ("hand", "robot")
  config.stages.hand.share = 0.4
  config.stages.hand.mixture = ConfigDict(dict(start=dict(hand=1.0), end=dict(hand=1.0)))
  config.stages.robot.update(share=0.6, frozen=("bridge/*",))
  config.data.update(folder="data", sources=("hand", "robot"), frames=9)
  config.codec = ConfigDict(dict(kind="pca", channels=4))
  config.bridge = ConfigDict(dict(kind="words", vocabulary=32, tokens=8, dim=8, text_dim=16))
  config.model.video.update(dim=16, ffn_dim=32, heads=2, layers=("SWA",), freq_dim=16)
  config.model.action.update(dim=16, ffn_dim=32, freq_dim=16, video_frames=4)
  config.train.update(steps=5, batch_size=2, chunks_per_clip=2, log_every=1, checkpoint_every=2)
  config.validation.update(clips=2, levels=(0.25, 0.9), every=2, keep_best="val/action")
  return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("train")
  build(folder / "data", dict(hand=4, robot=4), seed=0, size=32)
  (folder / "tiny.py").write_text(textwrap.dedent(CONFIG).replace('"data"', repr(str(folder / "data"))))
  assert main(["train", f"--config={folder}/tiny.py", f"--workdir={folder}/run"]) == 0
  return folder


def test_a_run_gives_a_model_that_acts(folder):
  model = kairos_jax.load(folder / "run")
  frames = np.zeros((5, 32, 32, 3), np.uint8)
  stream = model.prefill(frames, instruction="push the red ball")
  assert np.isfinite(model.act(stream, np.zeros(3, np.float32), seed=0)).all()
  assert [line["step"] for line in read(folder / "run/hand/metrics.jsonl")] == [1, 2]
  lines = read(folder / "run/robot/metrics.jsonl")
  assert [line["step"] for line in lines if "loss_action" in line] == [1, 2, 3]
  losses = [line for line in lines if "loss_action" not in line]
  assert [line["step"] for line in losses] == [2, 3]
  assert all({"val/video", "val/action", "val/video/0.25", "val/action/0.9"} <= line.keys() for line in losses)


def test_the_best_of_the_last_stage_is_a_model_too(folder):
  (best,) = (folder / "run/robot/best").iterdir()
  lines = read(folder / "run/robot/metrics.jsonl")
  losses = {line["step"]: line["val/action"] for line in lines if "val/action" in line}
  assert int(best.name) == min(losses, key=lambda step: losses[step])
  model = kairos_jax.load(folder / "run/best")
  kept = load_params(folder / "run/robot/best")
  jax.tree.map(
    np.testing.assert_array_equal, *({name: p[name] for name in ("video", "action")} for p in (model.params, kept))
  )
  stream = model.prefill(np.zeros((5, 32, 32, 3), np.uint8), instruction="push the red ball")
  assert np.isfinite(model.act(stream, np.zeros(3, np.float32), seed=0)).all()


def test_more_held_out_clips_than_there_are_claim_no_folder(folder, capsys):
  line = ["train", f"--config={folder}/tiny.py", f"--workdir={folder}/none", "--config.validation.clips=4"]
  assert main(line) == 2
  assert "config key validation.clips is 4; allowed: 1 to 3, for robot has 4" in capsys.readouterr().err
  assert not (folder / "none").exists()


def test_frozen_parts_are_not_in_a_stages_checkpoint(folder):
  metas = {name: max((folder / f"run/{name}/checkpoints").glob("*/meta/metadata")) for name in ("hand", "robot")}
  frozen = {name: set(json.loads(path.read_text())["frozen"]) for name, path in metas.items()}
  assert frozen == {"hand": {"codec"}, "robot": {"bridge", "codec"}}


def test_a_finished_run_is_not_trained_again_and_logs_may_differ(folder, capsys):
  before = (folder / "run/robot/metrics.jsonl").read_bytes()
  line = ["train", f"--config={folder}/tiny.py", f"--workdir={folder}/run"]
  assert main([*line, "--config.train.log_every=2"]) == 0
  assert (folder / "run/robot/metrics.jsonl").read_bytes() == before
  assert main([*line, "--config.train.batch_size=4"]) == 2
  assert "was started with config.train.batch_size=2, now 4" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_starts_from_another(folder, capsys):
  """From a stage: its bridge, video tower and codec are taken, the action tower is grown."""
  config = (folder / "tiny.py").read_text().replace('("hand", "robot")\n', '("robot",)\n', 1)
  config = config.replace("share=0.6", "share=1.0").replace("steps=5", "steps=1")
  (folder / "more.py").write_text(config.replace("  return", f'  config.init_from = "{folder}/run/hand"\n  return'))
  assert main(["train", f"--config={folder}/more.py", f"--workdir={folder}/more"]) == 0
  printed = [line.split() for line in capsys.readouterr().out.splitlines()]
  kinds = {(words[0].split("/")[0], words[1]) for words in printed if len(words) == 4 and "/" in words[0]}
  assert {("bridge", "taken"), ("video", "taken"), ("action", "grown")} <= kinds
  assert not {kind for kind in kinds if kind[1] in ("new", "left")}
  codecs = [(folder / name / "codec.safetensors").read_bytes() for name in ("run", "more")]
  assert codecs[0] == codecs[1]
