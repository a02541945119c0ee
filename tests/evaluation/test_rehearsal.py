import re

import pytest

from kairos_jax.cli import main as cli


@pytest.mark.slow
def test_every_phase_of_the_smallest_model(tmp_path, capsys):
  model = "kairos-4B-robot-RoboTwin2.0@tiny"
  assert cli.main(["bench", "rehearsal", f"--model={model}", f"--out={tmp_path}"]) == 0, capsys.readouterr().err
  out = capsys.readouterr().out
  there = re.search(r"convert back .* (\d+) of (\d+) tensors are the same to the bit", out)
  assert there and there[1] == there[2]
  assert "(32, 14), finite: True" in out and "losses: video " in out and not list(tmp_path.iterdir())
