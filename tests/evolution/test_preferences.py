"""Pairs from scores and from people, what they look like to training, and a whole run at the tiny shape."""

import asyncio
import dataclasses
import json

import jax
import numpy as np
import pytest

from data_pipelines.simulate.generate import build
from kairos_jax.cli import main as cli
from kairos_jax.cli import prefer as command
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.scene_scores import SCORES
from kairos_jax.evolution import pairs
from kairos_jax.evolution.pairs import Rollouts
from kairos_jax.interop import saved_model
from kairos_jax.training.improving import halves
from tests import browser, tiny


def test_the_command_knows_every_score():
  assert set(command._SCORES) == set(SCORES)


def test_the_best_is_beside_the_worst():
  rng = np.random.default_rng(0)
  seen, videos = rng.integers(0, 256, (3, 5, 8, 8, 3), np.uint8), rng.integers(0, 256, (3, 4, 6, 8, 8, 3), np.uint8)
  rollouts = Rollouts(seen, videos[:, 0], ["a", "b", "c"], videos)
  scores = np.array([[1.0, 3.0, 2.0, 0.0], [2.0, 2.0, 2.0, 2.0], [5.0, 4.0, 7.0, 9.0]])
  chosen = pairs.ranked(scores)
  assert chosen == [(0, 1, 3), (2, 3, 1)]  # of equals nothing is learned
  clips = list(pairs.clips(rollouts, chosen))
  assert [clip.instruction for clip in clips] == ["a", "c"]
  batch = {"video": np.stack([clip.cameras["front"] for clip in clips])}
  winner, loser = halves(batch)
  np.testing.assert_array_equal(winner["video"], np.concatenate([seen[[0, 2]], videos[[0, 2], [1, 3]]], axis=1))
  np.testing.assert_array_equal(loser["video"], np.concatenate([seen[[0, 2]], videos[[0, 2], [3, 1]]], axis=1))


def test_peoples_choices(tmp_path):
  path = tmp_path / "choices.csv"
  path.write_text("prompt,winner,loser,who\n2,0,1,me\n0,3,2,you\n")
  assert pairs.chosen(path, prompts=3, samples=4) == [(2, 0, 1), (0, 3, 2)]
  for text, message in (
    ("prompt,winner\n0,1\n", "no column loser; allowed: prompt, winner, loser"),
    ("prompt,winner,loser\n0,1,x\n", "line 2: prompt, winner and loser must be whole numbers"),
    ("prompt,winner,loser\n3,1,0\n", "line 2: prompt 3, 1 over 0; allowed: prompts to 2"),
    ("prompt,winner,loser\n1,2,2\n", "line 2: prompt 1, 2 over 2"),
  ):
    path.write_text(text)
    with pytest.raises(KairosError, match=message):
      pairs.chosen(path, prompts=3, samples=4)


@browser.needed
def test_people_choose_on_a_page(tmp_path):
  videos = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 16, 16, 3), np.uint8)
  rollouts = Rollouts(videos[:, 0, :1], videos[:, 0], ["</script>a", "b", "c"], videos)
  page = pairs.film(rollouts, tmp_path / "films", 10.0)

  async def choose(keys, address):
    async with browser.page(address, tmp_path / "profile") as (_, ask):
      await browser.until(ask, "document.getElementById('film')?.readyState >= 2")
      told = await ask("document.getElementById('instruction').textContent")
      for key in keys:
        await ask(f"document.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}'}}))")
      await ask("document.querySelectorAll('#rollouts button')[1].click()")
      return told, await ask("fetch(document.getElementById('save').href).then((reply) => reply.text())")

  told, text = asyncio.run(choose("42s31bb4", page.as_uri()))
  assert told == "</script>a"
  (tmp_path / "choices.csv").write_text(text)
  # The first prompt 4 over 2, the second skipped, the third 3 over 1; two back, and the second 4 over 2 in the end.
  assert sorted(pairs.chosen(tmp_path / "choices.csv", 3, 4)) == [(0, 3, 1), (1, 3, 1), (2, 2, 0)]


@pytest.mark.slow
def test_a_whole_run(tmp_path, capsys):
  """It learns the pairs that it trains on, leaves the other parts alone, and goes on where it was."""
  build(tmp_path / "data", dict(robot=2), seed=0, size=16, processes=1)
  saved_model.save(tmp_path / "base", dataclasses.replace(tiny.saved(), frame_size=(16, 16), clip_frames=21))
  line = [
    "prefer",
    f"--model={tmp_path / 'base'}",
    f"--data={tmp_path / 'data/robot'}",
    f"--out={tmp_path / 'run'}",
    *("--score=truth", "--prompts=4", "--held_out=2", "--samples=2", "--steps=3"),
  ]
  assert cli.main(line) == 0, capsys.readouterr().err
  report = json.loads((tmp_path / "run/report.json").read_text())
  assert set(report["measures"]) == {*SCORES, "motion", "sharpness", "diversity"} and report["pairs"] == 4
  assert 0 <= report["accuracy"][0] <= 1 and report["winners_loss"]["before"] > 0
  before, after = (saved_model.load(tmp_path / folder) for folder in ("base", "run/train"))
  same = jax.tree.map(np.array_equal, before.params, after.params)
  assert all(jax.tree.leaves([same["action"], same["bridge"], same["codec"]])) and not all(
    jax.tree.leaves(same["video"])
  )
  assert after.frame_size == (16, 16) and after.embodiments.keys() == before.embodiments.keys()
  assert cli.main(line) == 0
