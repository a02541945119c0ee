"""Losses on held-out clips: what they are of, that they are always the same, and what they keep."""

import dataclasses
import json
import math
import os
import signal
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kairos_jax.errors import KairosError
from kairos_jax.flow.objective import Objective
from kairos_jax.parallel import mesh as mesh_lib
from kairos_jax.parallel.mesh import make_mesh
from kairos_jax.training import Interrupted, load_params, train
from kairos_jax.training.best import BestCheckpoint
from kairos_jax.training.metrics import loss_names, read
from kairos_jax.training.validation import Validation, held_out_losses
from tests.training import toy
from tests.training.test_checkpoint import state_at

LEVELS = (0.2, 0.55, 0.9)


@dataclasses.dataclass
class Config:
  action_horizon: int
  text_dropout: float = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Stub(Objective):
  """Stands in for the objective: its losses tell the weights, the clips, the level and the draw apart."""

  model: Any = None
  encoder: Any = None
  codec: Any = None
  config: Any = None
  seen: Any = None

  def at_levels(self, params, batch, key, levels):
    self.seen.traced += 1
    self.seen.config, self.seen.clips = self.config, len(batch["x"])
    draw = jax.random.uniform(key)
    video = params["w"] * levels + batch["x"].mean() + draw
    return {"loss": video, "loss_video": video} | ({"loss_action": -video} if self.config.action_horizon else {})


def losses_of(clips, most, actions=True, seed=0):
  batch = {"x": np.arange(clips, dtype=np.float32) ** 2, "id": np.array([f"toy/{i}" for i in range(clips)])}
  stub = Stub(config=Config(int(actions)), seen=SimpleNamespace(traced=0))
  return held_out_losses(stub, batch, LEVELS, most=most, seed=seed, mesh=make_mesh()), stub.seen


@pytest.mark.parametrize(("clips", "most", "at_once"), [(6, 4, 3), (6, 6, 6), (6, 100, 6), (7, 4, 1), (12, 5, 4)])
def test_all_clips_count_alike_and_no_more_are_computed_at_once_than_allowed(clips, most, at_once):
  losses, seen = losses_of(clips, most)
  got = losses({"w": jnp.float32(2)})
  assert seen.clips == at_once and seen.config.text_dropout == 0
  parts = clips // at_once
  draws = [float(jax.random.uniform(jax.random.fold_in(jax.random.key(0), i))) for i in range(parts)]
  rest = np.mean(np.arange(clips) ** 2.0) + np.mean(draws)
  for level in LEVELS:
    np.testing.assert_allclose(got[f"val/video/{level}"], 2 * level + rest, rtol=1e-6)
    np.testing.assert_allclose(got[f"val/action/{level}"], -2 * level - rest, rtol=1e-6)
  np.testing.assert_allclose(got["val/video"], 2 * np.mean(LEVELS) + rest, rtol=1e-6)
  np.testing.assert_allclose(got["val/action"], -got["val/video"], rtol=1e-6)
  assert list(got) == loss_names(LEVELS, actions=True)


def test_losses_are_compiled_once_and_always_the_same():
  losses, seen = losses_of(6, 4, actions=False)
  some, other = ({"w": jnp.float32(w)} for w in (0.3, 0.7))
  first, changed, again = losses(some), losses(other), losses(some)
  assert first == again and changed["val/video"] != first["val/video"]
  assert seen.traced == 1 and list(first) == loss_names(LEVELS, actions=False)
  assert losses_of(6, 4, actions=False)[0](some) == first
  assert losses_of(6, 4, actions=False, seed=1)[0](some) != first


# In the loop.


def toy_losses(params):
  """On a batch that does not train."""
  batch = {name: np.stack([toy.sample(i)[name] for i in range(1000, 1016)]) for name in ("x", "y")}
  return {"val/video": float(toy.loss_fn(params, batch, jax.random.key(0))[0])}


def growing(params):
  """A loss that the first measurement wins."""
  return {"val/video": -toy_losses(params)["val/video"]}


def run(workdir, data=None, losses=toy_losses, keep_best: str | None = "val/video", every=5, **changes):
  config = toy.make_config(**{"steps": 12, "log_every": 4, "checkpoint_every": 3, "max_to_keep": 1} | changes)
  arguments = dict(name="toy", loss_fn=toy.loss_fn, params=toy.make_params(), workdir=workdir, **config)
  validation = Validation(losses, every, keep_best)
  return train(data=data or toy.make_data(records=1024), mesh=make_mesh(), validation=validation, **arguments)


def measured(workdir):
  return {line["step"]: line["val/video"] for line in read(workdir / "metrics.jsonl") if "val/video" in line}


def test_the_averaged_weights_are_measured_and_logged_beside_training(tmp_path, capsys):
  final = run(tmp_path)
  lines = read(tmp_path / "metrics.jsonl")
  assert [(line["step"], "loss" in line) for line in lines] == [
    (4, True),
    (5, False),
    (8, True),
    (10, False),
    (12, True),
    (12, False),
  ]
  assert all(line["val/seconds"] >= 0 and "steps_per_second" not in line for line in lines if "loss" not in line)
  assert measured(tmp_path)[12] == toy_losses(final)["val/video"]
  assert measured(tmp_path)[5] > measured(tmp_path)[10] > measured(tmp_path)[12]
  assert "toy: step 5 of 12: val/video " in capsys.readouterr().out


def test_training_is_the_same_with_and_without_it(tmp_path):
  with_it = run(tmp_path / "with")
  config = toy.make_config(steps=12, log_every=4, checkpoint_every=3)
  arguments = dict(name="toy", loss_fn=toy.loss_fn, params=toy.make_params(), workdir=tmp_path / "without", **config)
  without = train(data=toy.make_data(records=1024), mesh=make_mesh(), **arguments)
  jax.tree.map(np.testing.assert_array_equal, with_it, without)
  assert [line for line in toy.losses(tmp_path / "with") if "loss" in line] == toy.losses(tmp_path / "without")


@pytest.mark.parametrize("losses", [toy_losses, growing])
def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path, losses):
  run(tmp_path, losses=losses)
  lowest = min(measured(tmp_path), key=lambda step: measured(tmp_path)[step])
  assert lowest == (12 if losses is toy_losses else 5)
  assert [path.name for path in (tmp_path / "best").iterdir()] == [str(lowest)]
  assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["12"]
  kept = load_params(tmp_path / "best")
  assert losses(kept)["val/video"] == measured(tmp_path)[lowest]
  meta = json.loads((tmp_path / "best" / str(lowest) / "meta/metadata").read_text())
  assert meta == {"loss": "val/video", "value": measured(tmp_path)[lowest]}


@pytest.mark.parametrize("losses", [toy_losses, growing])
@pytest.mark.parametrize("number", [2, 4, 5, 9])
def test_an_interrupted_run_measures_and_keeps_the_same(tmp_path, number, losses):
  run(tmp_path / "undisturbed", losses=losses)
  data = toy.make_data(records=1024)
  for _ in range(number):
    next(data)
  trigger = int(str(next(data)["id"][0]).removeprefix("toy/"))

  def terminate(index):
    if index == trigger:
      os.kill(os.getpid(), signal.SIGTERM)
    return 1.0

  with pytest.raises(Interrupted):
    run(tmp_path / "interrupted", data=toy.make_data(records=1024, scale_of=terminate), losses=losses)
  run(tmp_path / "interrupted", losses=losses)
  assert toy.losses(tmp_path / "interrupted") == toy.losses(tmp_path / "undisturbed")
  best = [tmp_path / name / "best" for name in ("interrupted", "undisturbed")]
  assert len({path.name for folder in best for path in folder.iterdir()}) == 1
  jax.tree.map(np.testing.assert_array_equal, *map(load_params, best))


def test_nothing_is_kept_unless_asked(tmp_path):
  run(tmp_path, keep_best=None)
  assert not (tmp_path / "best").exists() and len(measured(tmp_path)) == 3


# What is kept.


def kept(folder):
  return sorted(int(path.name) for path in folder.iterdir())


def test_only_a_lower_loss_takes_the_place(tmp_path):
  values = {1: 2.0, 2: 3.0, 3: math.nan, 4: 2.0, 5: 1.5, 6: math.inf, 7: 1.6}
  with BestCheckpoint(tmp_path, "val/video") as best:
    assert [step for step, value in values.items() if best.offer(state_at(step), {"val/video": value})] == [1, 5]
  assert kept(tmp_path) == [5]
  with BestCheckpoint(tmp_path, "val/video") as best:  # and it is remembered
    assert not best.offer(state_at(8), {"val/video": 1.5}) and best.offer(state_at(9), {"val/video": 1.4})
  assert kept(tmp_path) == [9]
  np.testing.assert_array_equal(load_params(tmp_path)["in"]["bias"], np.full(32, 9.0))


def test_a_run_that_went_back_replaces_what_it_kept_later(tmp_path):
  for loss, step, value in (
    ("val/video", 9, 1.0),
    ("val/video", 5, 0.9),
    ("val/action", 5, 7.0),
    ("val/video", 3, 2.0),
  ):
    with BestCheckpoint(tmp_path, loss) as best:
      assert best.offer(state_at(step), {loss: value})
    assert kept(tmp_path) == [step]
    assert json.loads((tmp_path / f"{step}/meta/metadata").read_text()) == {"loss": loss, "value": value}


def test_what_cannot_be_read_is_not_the_best(tmp_path):
  with BestCheckpoint(tmp_path, "val/video") as best:
    best.offer(state_at(4), {"val/video": 1.0})
  (tmp_path / "4/meta/metadata").write_text("{")
  with BestCheckpoint(tmp_path, "val/video") as best:
    assert best.offer(state_at(5), {"val/video": 2.0})
  assert kept(tmp_path) == [5]


def test_clips_that_devices_cannot_share_are_refused(monkeypatch):
  monkeypatch.setattr(mesh_lib, "batch_shards", lambda mesh: 2)
  monkeypatch.setattr("kairos_jax.training.validation.reader", lambda mesh: (0, 1))  # of one process
  batch = {"x": np.zeros(3, np.float32), "id": np.array(list("abc"))}
  with pytest.raises(KairosError, match="config key validation.clips is 3; allowed: a multiple of 2, mesh"):
    held_out_losses(Stub(config=Config(0)), batch, LEVELS, most=2, seed=0, mesh=make_mesh())
