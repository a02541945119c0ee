"""`kairos generate` with tiny weights in the official layout, and its mistakes."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from kairos_jax import media
from kairos_jax.cli import main as cli
from kairos_jax.interop.golden import read_case
from kairos_jax.released.noise import official_noise
from tests.released import official

V1, DISTILLED = "kairos-sensenova-4B-720P@tiny", "kairos-sensenova-robot-4B-480P-distilled@tiny"
SMALL = ["--height=32", "--width=16", "--frames=5", "--dtype=float32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("models")
  for name in (V1, DISTILLED):
    official.write(path, name)
  picture = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
  Image.fromarray(picture).save(path / "first.png")
  (path / "text.png").write_text("no picture")
  return path


def test_words_and_a_picture_from_an_example_with_guidance(folder, tmp_path, capsys):
  example = dict(prompt="a red robot arm", input_image=str(folder / "first.png"), negative_prompt="blue", cfg_scale=3)
  (tmp_path / "example.json").write_text(json.dumps({**example, "tiled": True, "num_inference_steps": 2}))
  out = tmp_path / "out.mp4"
  line = ["generate", f"--model={V1}", f"--weights={folder}", f"--example={tmp_path / 'example.json'}", f"--out={out}"]
  assert cli.main([*line, *SMALL]) == 0, capsys.readouterr().err
  assert media.read_video(out).shape == (5, 32, 16, 3)
  assert capsys.readouterr().out.startswith("memory: towers and autoencoder 0.0 GB")


def test_words_alone_in_four_steps(folder, tmp_path, capsys):
  out = tmp_path / "out.mp4"
  line = ["generate", f"--model={DISTILLED}", f"--weights={folder}", "--prompt=a red robot arm", f"--out={out}"]
  assert cli.main([*line, *SMALL]) == 0, capsys.readouterr().err
  assert media.read_video(out).shape == (5, 32, 16, 3)


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (["--prompt=x", "--height=40"], "--height is 40; allowed: multiples of 16"),
    (["--prompt=x", "--frames=6"], "--frames is 6; allowed: 1 + a multiple of 4"),
    ([], "generate needs --prompt, --image or both"),
    (["--image={folder}/text.png"], "text.png is not a readable picture"),
    (["--image={folder}/none.png"], "none.png does not exist"),
    (["--prompt=" + "blue cup " * 400], "a prompt has"),
    (["--prompt=x", "--weights=nowhere"], "nowhere lacks the towers"),
    (["--example={folder}/text.png"], "is not a readable example"),
  ],
)
def test_a_mistake_is_one_line(folder, capsys, flags, says):
  given = [flag.format(folder=folder) for flag in flags]
  assert cli.main(["generate", f"--model={V1}", f"--weights={folder}", *SMALL, *given]) == 2
  err = capsys.readouterr().err
  assert says in err and err.count("\n") == 1, err


SHARED = os.environ.get("KAIROS_GOLDENS")


@pytest.mark.skipif(not SHARED, reason="KAIROS_GOLDENS names no folder with the reference's golden cases")
def test_the_noise_of_a_seed_is_the_references():
  from pathlib import Path

  case = read_case(Path(SHARED or "") / "c07_dmd_loop_t2v_attn_fixed.json")
  want = case.tensors["noise_renoise0"]
  np.testing.assert_allclose(official_noise(case.meta["seed"], want.shape), want, atol=2e-6)
