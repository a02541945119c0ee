"""The loop: what is kept, what is written next, what comes true in a video, and a whole run that is killed between."""

import dataclasses
import json

import numpy as np
import pytest

from data_pipelines.simulate.worded import SENTENCE, SLOTS, Wish
from kairos_jax.cli import main as cli
from kairos_jax.errors import KairosError
from kairos_jax.evolution.prompts import wishes
from kairos_jax.evolution.prompts.align import loop
from kairos_jax.evolution.prompts.rewriters import ChatRewriter, SlotRewriter
from kairos_jax.evolution.prompts.tree import Critique, best, grown
from kairos_jax.interop import saved_model
from tests import tiny

REWRITER = SlotRewriter(SENTENCE, SLOTS)
STILLS = np.zeros((2, 8, 8, 3), np.uint8)


def test_what_is_better_is_kept_and_what_is_wrong_most_often_is_named_first():
  tree = grown([], "a", None, [Critique(1, 0.5, 0.5, ("ball",)), Critique(0, 0.5, 0.5, ("tempo", "ball"))])
  assert tree[0].kept and tree[0].critique == Critique(0.5, 0.5, 0.5, ("ball", "tempo"))
  tree = grown(tree, "b", 0, [Critique(0.4, 0.4, 0.4)])
  tree = grown(tree, "c", 0, [Critique(0.9, 0.9, 0.9)])
  assert [node.kept for node in tree] == [True, False, True] and best(tree) == 2
  assert tree[2].parent == 0 and tree[2].rewards == (pytest.approx(0.9),)


def test_a_sentence_changes_where_it_is_blamed_and_none_is_tried_twice():
  rng, tree = np.random.default_rng(0), grown([], "poke it", None, [Critique(0, 0, 0, ("ball",))])
  text, parent = REWRITER.rewrite(tree, STILLS, rng)
  assert parent == 0
  first = Wish(*_read(text))
  tree = grown(tree, text, parent, [Critique(0.5, 0.5, 0.5, ("ball", "end"))])
  text, parent = REWRITER.rewrite(tree, STILLS, rng)
  second = Wish(*_read(text))
  assert parent == 1
  assert [name for name in SLOTS if getattr(first, name) != getattr(second, name)] == ["ball", "end"]
  tree = grown(tree, text, parent, [Critique(0.4, 0.4, 0.4)])
  for _ in range(4):  # one slot at a time from the best, but never the same again
    text, parent = REWRITER.rewrite(tree, STILLS, rng)
    assert parent == 1 and text not in {node.prompt for node in tree}
    tree = grown(tree, text, parent, [Critique(0.1, 0.1, 0.1)])


def test_a_model_is_asked_with_all_that_was_tried():
  class Model:
    name, attempts, said = "told", 1, '{"prompt": " touch  it "}'

    def complete(self, text, pictures):
      self.text, self.pictures = text, pictures
      return self.said

  model = Model()
  tree = grown([], 'poke "it"', None, [Critique(1, 0.5, 0.25, ("ball",))])
  assert ChatRewriter(model).rewrite(tree, STILLS, np.random.default_rng(0)) == ("touch it", 0)
  assert json.dumps('poke "it"') in model.text and '"wrong": ["ball"]' in model.text and len(model.pictures) == 2
  for said in ('{"words": "x"}', json.dumps({"prompt": "x" * 1001})):
    model.said = said
    with pytest.raises(KairosError, match="told gave no prompt"):
      ChatRewriter(model).rewrite(tree, STILLS, np.random.default_rng(0))


@pytest.fixture(scope="module")
def given():
  return wishes.problems(3, 48, 1, 48, seed=0)


def test_a_wish_is_recognized_in_its_film(given):
  """Even where it is smeared over a pixel more."""
  for problem in given:
    assert not any(word in problem.said for words in SLOTS.values() for word in words)
    for wish, film in zip(wishes._EVERY, problem.films, strict=True):
      moved = np.roll(film, 1, axis=2) // 2 + film // 2
      assert wishes.perceived(problem, moved) == wish
    critique = wishes.judged(problem, problem.truth)
    assert critique.task == 1 and not critique.wrong and critique.physics > 0.8 and critique.quality > 0.8
    other = problem.wish._replace(ball={"red": "blue", "blue": "red"}[problem.wish.ball])
    wrong = problem.films[wishes._EVERY.index(other)]
    assert wishes.judged(problem, wrong).wrong == ("ball",)
    assert wishes.unseen(problem, np.stack([problem.truth, wrong]))[1] < 40


def test_the_loop_finds_the_words_of_a_model_that_obeys_them(given, tmp_path):
  """A perfect model of its own words, by which others are heard at random; killed after two rounds, it goes on."""
  calls = []

  def imagine(prompts, number):
    calls.append(number)
    rng, videos = np.random.default_rng(number), []
    for problem, prompt in zip(given, prompts, strict=True):
      known = next((wish for wish in wishes._EVERY if wish.sentence == prompt), None)
      heard = [known or wishes._EVERY[rng.integers(16)] for _ in range(2)]
      videos.append(np.stack([problem.films[wishes._EVERY.index(wish)] for wish in heard]))
    return np.stack(videos)

  loop(given, imagine, REWRITER, 1, 0, tmp_path)
  trees, videos = loop(given, imagine, REWRITER, 3, 0, tmp_path)
  assert calls == [0, 1, 2, 3] and videos.shape[:2] == (3, 8)
  whole, _ = loop(given, imagine, REWRITER, 3, 0, tmp_path / "whole")
  assert trees == whole
  for problem, tree in zip(given, trees, strict=True):
    assert tree[best(tree)].prompt == problem.wish.sentence and tree[0].prompt == problem.said


@pytest.mark.slow
def test_a_whole_run(tmp_path, capsys):
  saved_model.save(tmp_path / "model", dataclasses.replace(tiny.saved(), frame_size=(16, 16), clip_frames=49))
  line = ["align", f"--model={tmp_path / 'model'}", f"--out={tmp_path / 'out'}", "--prompts=2", "--rounds=1"]
  assert cli.main(line) == 0, capsys.readouterr().err
  assert "2 wishes, 4 rollouts of each" in capsys.readouterr().out
  report = json.loads((tmp_path / "out/report.json").read_text())
  assert set(report["measures"]) == {"physics", "task", "quality", "reward", "unseen"}
  text = (tmp_path / "out/index.html").read_text()
  assert text.count("<article") == 4 and (tmp_path / "out/films/001_original.mp4").exists()


def _read(text):
  return next(wish for wish in wishes._EVERY if wish.sentence == text)
