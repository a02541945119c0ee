"""The reference's own video objective: against float64 and the golden schedule."""

import dataclasses
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kairos_jax import assembly
from kairos_jax.errors import KairosError
from kairos_jax.flow.official import CONDITIONS, OfficialDraws, OfficialVideoObjective
from kairos_jax.interop.golden import read_case
from kairos_jax.model import WorldActionModel
from tests.model import oracle, tiny

BATCH, FRAMES = 3, 13  # 4 latents
TOWERS = tiny.video_only(layers=("SWA", "GATED"))
ENCODER = assembly.make_encoder(dict(kind="words", vocabulary=32, tokens=6, dim=8, text_dim=12))
CODEC = assembly.make_codec(dict(kind="pca", channels=3))
NAMES = sorted(CONDITIONS)
TEXTS = ["push the ball", "wait", "pull"]


@pytest.fixture(scope="module")
def setting():
  """The objective, all parameters, a batch and its latents."""
  rng = np.random.default_rng(1)
  clips = rng.integers(0, 256, (4, 5, 16, 16, 3), dtype=np.uint8)
  around = {"codec": CODEC.fit(clips, 0), "bridge": ENCODER.init(jax.random.key(0))}
  batch = {
    "video": rng.integers(0, 256, (BATCH, FRAMES, 16, 16, 3), dtype=np.uint8),
    "length": np.array([13, 13, 9], np.int32),
    "tokens": ENCODER.tokenize(TEXTS),
  }
  objective = OfficialVideoObjective(WorldActionModel(TOWERS), ENCODER, CODEC, {"ti2v": 1.0})
  clean, _ = CODEC.encode(around["codec"], batch["video"])
  return objective, {**tiny.params(TOWERS), **around}, batch, np.asarray(clean)


def by_hand(params, batch, clean, condition, level, noise):
  """In float64, frame by frame: schedule, bell and loss from their formulas, the tower from the oracle."""
  frames, tokens = clean.shape[1], clean.shape[2] * clean.shape[3] / 4
  slope = (0.9 - 0.5) / (8192 - 256)
  shift = np.exp(slope * (tokens - 256) + 0.5) * np.sqrt(frames)
  even = 1 - np.arange(1000) / 1000
  sigmas = shift * even / (1 + (shift - 1) * even)
  bell = np.exp(-2 * ((1000 * sigmas - 500) / 1000) ** 2)
  bell = (bell - bell.min()) / (bell - bell.min()).mean()
  observed = {"t2v": 0, "ti2v": 1, "i2v": 1, "unconditional": 0}[condition]
  towers = dataclasses.replace(TOWERS, video=dataclasses.replace(TOWERS.video, history_sees_future=True))
  squares = []
  for clip in range(len(clean)):
    count = (int(batch["length"][clip]) - 1) // 4 + 1
    data, eps = np.asarray(clean[clip, :count], np.float64), np.asarray(noise[clip, :count], np.float64)
    latents = (1 - sigmas[level]) * data + sigmas[level] * eps
    latents[:observed] = data[:observed]
    embedded = ENCODER.encode(params["bridge"], ENCODER.tokenize([TEXTS[clip] if condition in ("t2v", "ti2v") else ""]))
    context, mask = np.asarray(embedded.tokens[0], np.float64), np.asarray(embedded.mask[0])
    if condition == "unconditional":
      context, mask = np.zeros_like(context), None  # tokens that are all alike: a mask that hides all changes nothing
    velocity, _ = oracle.video(
      tiny.tensors(TOWERS), towers, latents, 1000 * sigmas[level], context, mask, num_observed=observed
    )
    squares += [((velocity - (eps - data))[i] ** 2).mean() for i in range(observed, count)]
  return np.mean(squares) * bell[level], np.mean(squares)


@pytest.mark.parametrize(("condition", "level"), [("t2v", 3), ("ti2v", 412), ("i2v", 777), ("unconditional", 950)])
def test_the_loss_is_the_one_computed_by_hand(setting, condition, level):
  objective, params, batch, clean = setting
  noise = np.random.default_rng(level).standard_normal(clean.shape).astype(np.float32)
  draws = OfficialDraws(jnp.int32(NAMES.index(condition)), jnp.int32(level), noise)
  loss, parts = jax.jit(objective.loss)(params, batch, clean, draws)
  want, unweighted = by_hand(params, batch, clean, condition, level, noise)
  np.testing.assert_allclose(parts["loss_video"], unweighted, rtol=2e-5)
  np.testing.assert_allclose(loss, want, rtol=2e-5, atol=1e-6)
  assert unweighted > 0.1


def test_history_sees_later_frames(setting):
  """The mask's restriction is off: what the first latent leaves in the layers depends on the others."""
  objective, _, _, _ = setting
  assert objective.model.config.video.history_sees_future and not TOWERS.video.history_sees_future


def test_one_condition_and_one_level_for_the_batch_and_all_alike_often(setting):
  objective, _, _, clean = setting
  mixed = dataclasses.replace(objective, tasks={"t2v": 1.0, "ti2v": 3.0})
  draws = jax.vmap(lambda key: mixed.draw(clean.shape, key))(jax.random.split(jax.random.key(0), 4000))
  assert draws.level.shape == draws.condition.shape == (4000,)
  drawn = {NAMES[i]: float((draws.condition == i).mean()) for i in set(np.asarray(draws.condition).tolist())}
  assert set(drawn) == {"t2v", "ti2v"} and abs(drawn["ti2v"] - 0.75) < 0.03
  quantiles = np.sort(draws.level)[:: 4000 // 10]
  np.testing.assert_allclose(quantiles, np.arange(10) * 100, atol=40)
  assert draws.level.min() >= 0 and draws.level.max() <= 999


@pytest.mark.skipif("KAIROS_GOLDENS" not in os.environ, reason="KAIROS_GOLDENS names no folder of golden cases")
def test_the_schedule_and_the_bell_are_the_golden_ones(setting):
  case = read_case(Path(os.environ["KAIROS_GOLDENS"]) / "c08_scheduler.json")
  golden, schedule = case.part("train_exp/"), setting[0].schedule((1, 21, 60, 104, 3))  # 1,560 tokens a frame
  np.testing.assert_allclose(schedule.sigmas, golden["sigmas"], atol=1e-6)
  np.testing.assert_allclose(schedule.weights, golden["weights"], atol=1e-5)


@pytest.mark.parametrize("tasks", [{"image": 1.0}, {}, {"ti2v": 0.0}])
def test_other_tasks_are_refused(tasks):
  with pytest.raises(KairosError, match="the official objective has t2v, ti2v, i2v, unconditional"):
    OfficialVideoObjective(WorldActionModel(TOWERS), ENCODER, CODEC, tasks)


def test_a_causal_history_is_refused():
  towers = tiny.video_only(layers=("SWA", "GATED"), causal_history=True)
  with pytest.raises(KairosError, match="causal_history is True"):
    OfficialVideoObjective(WorldActionModel(towers), ENCODER, CODEC, {"ti2v": 1.0})
