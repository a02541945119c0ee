"""Exported programs do what the model does, run without this project, and are refused when they were changed."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from kairos_jax.cli import main as cli
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import low_bit
from kairos_jax.export import policy, programs
from kairos_jax.interop import saved_model
from kairos_jax.runtime import WorldModel
from tests import tiny

pytest.importorskip("flatbuffers")
PROMPT, STEPS = "push", 2


@pytest.fixture(scope="module")
def model(tiny_saved):
  """Of a robot whose units are not the model's."""
  robot = tiny_saved.embodiments["slide_arm"]
  scaled = dataclasses.replace(
    robot, action=dataclasses.replace(robot.action, center=np.float32([1, 2, 3]), scale=np.float32([2, 3, 4]))
  )
  return WorldModel(dataclasses.replace(tiny_saved, embodiments={"slide_arm": scaled}))


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
  folder = tmp_path_factory.mktemp("exported")
  programs.export(model, folder, [PROMPT, "pull"], steps=STEPS)
  return folder


def test_an_episode_is_what_the_model_answers(exported, model):
  mine, rng = policy.load(exported), np.random.default_rng(0)
  stream, theirs = mine.prefill(tiny.frames(1), PROMPT), model.prefill(tiny.frames(1), PROMPT)
  for call in range(4):
    state = rng.standard_normal(3).astype(np.float32)
    got = mine.act(stream, state, seed=2**40 + call)
    np.testing.assert_allclose(got, model.act(theirs, state[None], seed=[2**40 + call], steps=STEPS)[0], atol=1e-5)
    frames = tiny.frames(4, seed=call)
    stream, theirs = mine.extend(stream, frames), model.extend(theirs, frames)
  other = mine.act(mine.prefill(tiny.frames(1), "pull"), state)
  assert np.abs(other - mine.act(mine.prefill(tiny.frames(1), PROMPT), state)).max() > 1e-3


@pytest.mark.slow
def test_few_bits_are_exported_as_they_are(model, tmp_path):
  narrow = WorldModel(low_bit.quantized(model.saved, "int4"))
  programs.export(narrow, tmp_path, [PROMPT], steps=1)
  mine, state = policy.load(tmp_path), np.ones(3, np.float32)
  want = narrow.act(narrow.prefill(tiny.frames(1), PROMPT), state[None], seed=[5], steps=1)[0]
  np.testing.assert_allclose(mine.act(mine.prefill(tiny.frames(1), PROMPT), state, seed=5), want, atol=1e-5)


def test_the_loader_needs_jax_numpy_and_flatbuffers_alone(exported):
  code = "import sys, policy; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
  run = subprocess.run([sys.executable, "-c", code], cwd=exported, capture_output=True, text=True, check=True)
  ours = {"kairos_jax", "pallas_kernels", "data_pipelines", "flax", "qwix", "safetensors", "jaxtyping", "einops"}
  assert {"jax", "numpy", "flatbuffers"} <= set(run.stdout.split()) and not ours & set(run.stdout.split())


def test_the_manifest_says_what_a_robot_must_know(exported):
  manifest = json.loads((exported / "manifest.json").read_text())
  assert manifest["cameras"] == ["front"] and manifest["frames"] == {
    "prefill": [1, 16, 16, 3],
    "extend": [4, 16, 16, 3],
  }
  assert set(manifest["sha256"]) == {path.name for path in exported.iterdir()} - {"manifest.json"}
  assert (
    len(manifest["actions"]) == 3 and manifest["action_horizon"] == 4 and list(manifest["prompts"]) == [PROMPT, "pull"]
  )


def test_what_a_policy_refuses(exported):
  mine = policy.load(exported)
  stream = mine.prefill(tiny.frames(1), PROMPT)
  for call, says in (
    (lambda: mine.prefill(tiny.frames(1), "jump"), "prompt is 'jump'; exported were 'push', 'pull'"),
    (lambda: mine.prefill(tiny.frames(2), PROMPT), "prefill takes uint8"),
    (lambda: mine.extend(stream, tiny.frames(4).astype(np.float32)), "extend takes uint8"),
    (lambda: mine.act(stream, np.zeros(4)), "3 finite numbers"),
    (lambda: mine.act(stream, np.full(3, np.nan)), "3 finite numbers"),
    (lambda: policy.load(exported, "tpu"), "has programs for cpu; none for tpu"),
  ):
    with pytest.raises(ValueError, match=says):
      call()


@pytest.mark.parametrize("name", ["act.cpu.bin", "weights.safetensors"])
def test_a_changed_file_is_not_run(exported, tmp_path, name):
  folder = shutil.copytree(exported, tmp_path / "copy")
  data = bytearray((folder / name).read_bytes())
  data[len(data) // 2] ^= 1
  (folder / name).write_bytes(data)
  with pytest.raises(ValueError, match=f"{name} is not the file that was exported"):
    policy.load(folder)
  (folder / name).unlink()
  with pytest.raises(ValueError, match=f"{name} cannot be read"):
    policy.load(folder)


def test_what_cannot_be_exported(model, tmp_path):
  growing = WorldModel(tiny.saved(tiny.model_config(video_frames=None)))
  for wrong, says in (
    (lambda: programs.export(model, tmp_path, []), "no prompt"),
    (lambda: programs.export(model, tmp_path, [PROMPT], platforms=["abacus"]), "platform is 'abacus'"),
    (lambda: programs.export(growing, tmp_path, [PROMPT]), "its memory grows"),
  ):
    with pytest.raises(KairosError, match=says):
      wrong()


def test_the_command(model, tmp_path, capsys):
  saved_model.save(tmp_path / "model", model.saved)
  (tmp_path / "prompts.txt").write_text("push\n\n pull \n")
  options = [f"--model={tmp_path}/model", f"--out={tmp_path}/out", "--steps=1", "--platforms=tpu"]
  assert cli.main(["export", *options, f"--prompts={tmp_path}/prompts.txt"]) == 0
  out = capsys.readouterr().out
  assert "act.tpu.bin" in out and "weights.safetensors" in out and "policy.py" in out
  assert list(json.loads((tmp_path / "out" / "manifest.json").read_text())["prompts"]) == ["push", "pull"]
  assert cli.main(["export", *options, "--prompts=none.txt"]) == 2
  assert "prompts is 'none.txt'" in capsys.readouterr().err
