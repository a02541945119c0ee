"""A round's film: the episodes that it newly solved and lost, before above after, and nothing where nothing changed."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np

from kairos_jax import media
from kairos_jax.evaluation.comparison import episode_seeds
from kairos_jax.evaluation.record import EpisodeRecord, Kept
from kairos_jax.evolution import films
from kairos_jax.evolution.rounds import Evolution
from kairos_jax.interop import saved_model


def test_what_is_newly_solved_and_newly_lost():
  before = {seed: Kept(seed in (1, 2), 9) for seed in range(6)}
  after = {seed: Kept(seed in (2, 3, 5), 9) for seed in range(5)}
  assert films.changed(before, after) == films.Changed([3], [1])


def test_the_film_of_a_round(tmp_path, tiny_saved, monkeypatch):
  run = Evolution(str(tmp_path / "base"), "taught", "filtered", rounds=2, held_out=6)
  moved = jax.tree.map(lambda x: x + 1, tiny_saved.params["action"])
  after = dataclasses.replace(tiny_saved, params={**tiny_saved.params, "action": moved})
  saved_model.save(tmp_path / "base/model", tiny_saved)
  for number in (1, 2):
    saved_model.save(tmp_path / f"run/round_{number}/train/model", after)
  seeds, record = episode_seeds(6), EpisodeRecord(tmp_path / "run/evaluation.jsonl")
  outcomes = {saved_model.content_hash(tiny_saved): {0, 1}, saved_model.content_hash(after): {0, 4, 5}}
  for name, won in outcomes.items():
    for place, seed in enumerate(seeds):
      record.add(name, "model", "cue_reach/visible", seed, Kept(place in won, 9))

  class Arena:
    def __init__(self, model, env, episodes):
      self.won = outcomes[saved_model.content_hash(model.saved)]

    def play(self, entry, waiting):
      for seed in waiting[::-1]:
        place = seeds.index(seed)
        video = np.full((3 + place, 16, 24, 3), 40 * place, np.uint8)
        yield SimpleNamespace(seed=seed, success=place in self.won, video=lambda video=video: video)

  monkeypatch.setattr(films, "Arena", Arena)
  rounds = [dict(round=number, accepted=True) for number in (1, 2)]
  (path,) = films.write(run, tmp_path / "run", rounds)  # the second round changed nothing
  assert path == tmp_path / "run/round_1/changed.mp4"
  frames = media.read_video(path)
  assert frames.shape == (8, 2 * 20 * 4, 3 * 28 * 4, 3)  # 4 and 5 are newly solved, 1 is newly lost
  picture = frames[0].reshape(2, 20, 4, 3, 28, 4, 3).mean(axis=(2, 5)).transpose(0, 2, 1, 3, 4)
  np.testing.assert_allclose(picture[:, :, 5:15, 5:15].mean(axis=(2, 3, 4)), [[160, 200, 40]] * 2, atol=6)
  green = picture[:, :, 0, 8:12, 1].mean(axis=2) > picture[:, :, 0, 8:12, 0].mean(axis=2)
  np.testing.assert_array_equal(green, [[False, False, True], [True, True, False]])
  before = path.stat().st_mtime_ns
  assert films.write(run, tmp_path / "run", rounds) == [path] and path.stat().st_mtime_ns == before
