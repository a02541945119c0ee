"""`kairos act` with tiny weights in the official layout, and its mistakes."""

import json

import numpy as np
import pytest
from PIL import Image

from data_pipelines import embodiments
from kairos_jax.cli import main as cli
from tests.released import official

WAM = "kairos-4B-robot-RoboTwin2.0@tiny"
CAMERAS = ("head_camera", "left_camera", "right_camera")
SIZE = (48, 32)
STATE = "--state=" + ",".join(str(x / 10) for x in range(14))


def statistics(path, **action):
  """A dataset_stats.json whose states are on the model's scale already."""
  plain = dict(min=-1.0, max=1.0, mean=0.0, std=1.0, q01=-1.0, q99=1.0)
  features = {"state": plain, "action": plain | action}
  content = {
    feature: {"default": {f"global_{name}": [value] * 14 for name, value in numbers.items()}}
    for feature, numbers in features.items()
  }
  path.write_text(json.dumps({**content, "num_episodes": 1, "num_transition": 9}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("models")
  official.write(path, WAM)
  rng, pictures = np.random.default_rng(0), {}
  for i, camera in enumerate(CAMERAS):
    pictures[camera] = rng.integers(0, 256, (30 + i, 40, 3), np.uint8)
    Image.fromarray(pictures[camera]).save(path / f"{camera}.png")
  whole = embodiments.picture("robotwin_aloha", pictures, SIZE)
  Image.fromarray(whole).save(path / "whole.png")
  (path / "text.png").write_text("no picture")
  statistics(path / "stats.json", mean=3.0, std=0.5)
  return path


def line(folder, *more):
  sizes = ["--height=48", "--width=32", "--dtype=float32", "--steps=2", "--prompt=lift the cup"]
  return ["act", f"--model={WAM}", f"--weights={folder}", *sizes, *more]


@pytest.mark.slow
def test_cameras_are_put_together_and_statistics_give_the_robots_units(folder, tmp_path, capsys):
  named = ",".join(f"{camera}={folder / camera}.png" for camera in CAMERAS[::-1])
  assert cli.main([*line(folder), f"--image={named}", STATE]) == 0, capsys.readouterr().err
  said = capsys.readouterr()
  plain = json.loads(said.out)
  assert "memory: towers" in said.err and "no robotwin_dataset_stats.json" in said.err
  assert plain["names"][6] == "left_gripper" and plain["units"][6] == "fraction" and 16 < plain["hz"] < 17
  actions = np.asarray(plain["actions"])
  assert actions.shape == (32, 14) and np.isfinite(actions).all() and actions.std() > 0.1

  (tmp_path / "state.json").write_text(json.dumps([x / 10 for x in range(14)]))
  more = [f"--image={folder / 'whole.png'}", f"--state={tmp_path / 'state.json'}", f"--stats={folder / 'stats.json'}"]
  assert cli.main([*line(folder), *more, f"--out={tmp_path / 'chunk.json'}"]) == 0, capsys.readouterr().err
  scaled = np.asarray(json.loads((tmp_path / "chunk.json").read_text())["actions"])
  np.testing.assert_allclose(scaled, actions * 0.5 + 3.0, atol=1e-5)


WHOLE = "--image={folder}/whole.png"


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    ([STATE], "flag --image is missing"),
    ([WHOLE, STATE, "--prompt= "], "flag --prompt is missing"),
    ([WHOLE, "--state=1,2,x"], "--state: '1,2,x' is no list of numbers"),
    ([WHOLE, "--state={folder}/none.json"], "none.json does not exist"),
    ([WHOLE, "--state=1,2"], "the state has 2 numbers, 2 of them finite; allowed: 14 finite ones of robotwin_aloha"),
    ([WHOLE, STATE.replace("=0.0,", "=nan,")], "the state has 14 numbers, 13 of them finite"),
    ([WHOLE, STATE, "--width=40"], "--width is 40; allowed: multiples of 16"),
    (["--image={folder}/text.png", STATE], "text.png is not a readable picture"),
    (["--image=a.png,b.png", STATE], "one picture each of head_camera, left_camera, right_camera, or a single one"),
    (["--image=head_camera=a.png,left_camera=b.png,front=c.png", STATE], "one picture each of head_camera"),
    ([WHOLE, STATE, "--prompt=" + "blue cup " * 400], "a prompt has"),
    ([WHOLE, STATE, "--stats={folder}/text.png"], "cannot read the dataset statistics"),
    ([WHOLE, STATE, "--model=kairos-sensenova-4B-720P"], "has no action tower; allowed: kairos-4B-robot-RoboTwin2.0"),
  ],
)
def test_a_mistake_is_one_line(folder, capsys, flags, says):
  given = [flag.format(folder=folder) for flag in flags]
  assert cli.main([*line(folder), *given]) == 2
  err = capsys.readouterr().err
  assert says in err and err.count("\n") == 1, err
